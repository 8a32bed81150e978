// From a picture's pixels to a network's codes, as in training: cut, resized, normalized.
//
// The arithmetic is that of tf.image.resize with antialias=True, float32 step by step, so that
// the same pixels give the same codes. A canvas would scale in another way.

const f = Math.fround;
const PI = f(Math.PI);

const KERNELS = {
  bilinear: { radius: 1, at: (x) => (x < 1 ? f(1 - x) : 0) },
  bicubic: {
    radius: 2,
    at(x) {
      if (x >= 2) return 0;
      if (x >= 1) return f(f(f(f(f(f(-0.5 * x) + 2.5) * x) - 4) * x) + 2);
      return f(f(f(f(f(1.5 * x) - 2.5) * x) * x) + 1);
    },
  },
  lanczos3: { radius: 3, at: (x) => lanczos(x, 3) },
  lanczos5: { radius: 5, at: (x) => lanczos(x, 5) },
};

function lanczos(x, radius) {
  if (x > radius) return 0;
  if (x <= 1e-3) return 1;
  const sine = f(Math.sin(f(PI * x)));
  const wide = f(Math.sin(f(f(PI * x) / radius)));
  return f(f(f(radius * sine) * wide) / f(f(f(PI * PI) * x) * x));
}

/** Returns the part of a picture that the network sees, {left, top, width, height}. */
export function windowOf(width, height, input, crop) {
  if (crop === 1 && width === input.width && height === input.height) {
    return { left: 0, top: 0, width, height };
  }
  const scale = Math.min(height / input.height, width / input.width) * crop;
  const side = (wanted, whole) => Math.min(Math.max(toEven(scale * wanted), 1), whole);
  const cut = { width: side(input.width, width), height: side(input.height, height) };
  return { left: (width - cut.width) >> 1, top: (height - cut.height) >> 1, ...cut };
}

/** Returns RGB bytes of a new size, given RGBA bytes. */
export function resized(rgba, width, height, input, method) {
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  if (width === input.width && height === input.height) return rgb;
  const spans = method === "area" ? areas : method === "nearest" ? nearest : kernelSpans;
  const rows = spans(height, input.height, method);
  const columns = spans(width, input.width, method);
  // Uint8ClampedArray rounds halves to even, as tf.round does.
  if (method !== "area") {
    return new Uint8ClampedArray(across(down(rgb, width, rows), input.height, width, columns));
  }
  const sums = down(across(rgb, height, width, columns), input.width, rows);
  const share = f(1 / f(f(height / input.height) * f(width / input.width)));
  return Uint8ClampedArray.from(sums, (sum) => f(sum * share));
}

/** Returns the codes of RGB bytes: a table for each of the network's channels. */
export function codesOf(rgb, input, array) {
  const codes = new array(rgb.length);
  const source = input.channels === "bgr" ? [2, 1, 0] : [0, 1, 2];
  for (let i = 0; i < rgb.length; i += 3) {
    for (let channel = 0; channel < 3; channel++) {
      codes[i + channel] = input.codes[channel][rgb[i + source[channel]]];
    }
  }
  return codes;
}

// Which pixels of a line each new pixel is the weighted sum of: [{start, weights}].
function kernelSpans(size, wanted, method) {
  const kernel = KERNELS[method];
  const step = f(1 / f(wanted / size));
  const stretch = Math.max(step, 1);
  const shrink = f(1 / stretch);
  const reach = f(kernel.radius * stretch);
  const within = (place) => Math.min(Math.max(place, 0), size - 1);
  return Array.from({ length: wanted }, (_, place) => {
    const centre = f(f(place + 0.5) * step);
    const start = within(Math.ceil(f(f(centre - reach) - 0.5)));
    const end = within(Math.floor(f(f(centre + reach) - 0.5))) + 1;
    const weights = new Float32Array(end - start);
    let total = 0;
    for (let i = 0; i < weights.length; i++) {
      const distance = f(f(start + i + 0.5) - centre);
      weights[i] = kernel.at(Math.abs(f(distance * shrink)));
      total = f(total + weights[i]);
    }
    const share = f(1 / total);
    return { start, weights: weights.map((weight) => f(weight * share)) };
  });
}

function nearest(size, wanted) {
  const step = f(size / wanted);
  return Array.from({ length: wanted }, (_, place) => {
    const start = Math.min(Math.floor(f(f(place + 0.5) * step)), size - 1);
    return { start, weights: Float32Array.of(1) };
  });
}

function areas(size, wanted) {
  const step = f(size / wanted);
  return Array.from({ length: wanted }, (_, place) => {
    const [low, high] = [f(place * step), f((place + 1) * step)];
    const start = Math.floor(low);
    const end = Math.min(Math.ceil(high), size);
    const weights = Float32Array.from({ length: end - start }, (_, i) => {
      const pixel = start + i;
      if (pixel < low) return pixel + 1 > high ? step : f(f(pixel + 1) - low);
      return pixel + 1 > high ? f(high - pixel) : 1;
    });
    return { start, weights };
  });
}

function down(pixels, width, rows) {
  const length = width * 3;
  const result = new Float32Array(rows.length * length);
  rows.forEach(({ start, weights }, row) => {
    const to = row * length;
    weights.forEach((weight, index) => {
      const from = (start + index) * length;
      for (let i = 0; i < length; i++) result[to + i] += f(weight * pixels[from + i]);
    });
  });
  return result;
}

function across(pixels, height, width, columns) {
  const result = new Float32Array(height * columns.length * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    for (const { start, weights } of columns) {
      let from = (row * width + start) * 3;
      for (const weight of weights) {
        for (let channel = 0; channel < 3; channel++) {
          result[to + channel] += f(weight * pixels[from + channel]);
        }
        from += 3;
      }
      to += 3;
    }
  }
  return result;
}

function toEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
