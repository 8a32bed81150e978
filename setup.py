"""Grafts the top-level folders models/ and export/ under the import name ddq_tf.

ddq_tf/models and ddq_tf/export are symlinks to them, for tools that read the source tree;
package_dir keeps builds right where a checkout has no symlinks.
"""

from setuptools import find_packages, setup

GRAFTED = {"ddq_tf.models": "models", "ddq_tf.export": "export"}

setup(
    package_dir=GRAFTED,
    packages=sorted(
        {
            *find_packages(include=["ddq_tf", "ddq_tf.*"]),
            *GRAFTED,
            *(f"{name}.{sub}" for name, folder in GRAFTED.items() for sub in find_packages(folder)),
        }
    ),
    package_data={
        "ddq_tf": ["py.typed"],
        "ddq_tf.report": ["templates/*"],
        "ddq_tf.web": ["page/*"],
    },
)
