// Opens .tflite files in LiteRT.js, on the CPU.
//
// LiteRT.js's own loadAndCompile knows no int8 tensors. The bindings below it, which its type
// declarations call LiteRtWasm, do; so this file speaks to them.

const RUNTIME = "litert_wasm_internal.js";
const RUNTIME_WITHOUT_RELAXED_SIMD = "litert_wasm_compat_internal.js";
// A module with one relaxed SIMD instruction: valid where the browser knows them.
const RELAXED_SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253,
  15, 65, 2, 253, 15, 253, 128, 2, 11,
]);
const ARRAYS = { 1: Float32Array, 2: Int32Array, 3: Uint8Array, 9: Int8Array };
const LINES_KEPT = 20;

/** Loads the runtime from a folder's address, which ends in a slash. */
export async function loadRuntime(folder, relaxed = WebAssembly.validate(RELAXED_SIMD)) {
  await addScript(folder + (relaxed ? RUNTIME : RUNTIME_WITHOUT_RELAXED_SIMD));
  const said = [];
  const listen = (line) => {
    said.push(line);
    if (said.length > LINES_KEPT) said.shift();
  };
  const bindings = await self.ModuleFactory({
    locateFile: (name) => folder + name,
    print: listen,
    printErr: listen,
  });
  bindings.setupLogging();
  return { bindings, environment: bindings.LiteRtEnvironment.create(null), relaxed, said };
}

function addScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`The file ${address} could not be loaded.`));
    document.head.append(script);
  });
}

/** A model, ready to run. Inputs and outputs come in the order of the file's signature. */
export class Model {
  /** Opens the content of a .tflite file, a Uint8Array. */
  static async open(runtime, content) {
    const { bindings, environment } = runtime;
    const address = bindings._malloc(content.length);
    bindings.HEAPU8.set(content, address);
    runtime.said.length = 0;
    try {
      const model = bindings.loadModel(environment, address, content.length);
      const compiled = await bindings.compileModel(environment, model, {
        accelerator: "wasm",
        cpuOptions: { numThreads: 1 },
        gpuOptions: {},
        webNNOptions: {},
      });
      return new Model(runtime, model, compiled, address);
    } catch (error) {
      bindings._free(address);
      throw new Error(`LiteRT.js cannot run this file: ${wordsOf(error, runtime.said)}`);
    }
  }

  constructor(runtime, model, compiled, address) {
    Object.assign(this, { runtime, model, compiled, address });
    const signature = model.getSignature(0);
    this.inputs = items(signature.inputNames()).map((name, index) =>
      tensorOf(name, model.getInputTensorType(0, index)),
    );
    this.outputs = items(signature.outputNames()).map((name, index) =>
      tensorOf(name, model.getOutputTensorType(0, index)),
    );
    signature.delete();
  }

  /** Returns a typed array for each output, given one of the right type for each input. */
  async run(arrays) {
    this.check(arrays);
    const buffers = arrays.map((array, index) => this.filled(array, index));
    try {
      const results = await this.compiled.run(0, buffers);
      return results.map((buffer, index) => this.taken(buffer, this.outputs[index]));
    } finally {
      buffers.forEach((buffer) => buffer.delete());
    }
  }

  check(arrays) {
    const fits = (input, index) =>
      arrays[index] instanceof input.array && arrays[index].length === input.length;
    if (arrays.length === this.inputs.length && this.inputs.every(fits)) return;
    const wanted = this.inputs.map((input) => `${input.array.name} of ${input.length}`);
    const received = arrays.map((array) => `${array.constructor.name} of ${array.length}`);
    throw new Error(`The model takes ${wanted.join(", ")}. Received: ${received.join(", ")}.`);
  }

  filled(array, index) {
    const { bindings, environment } = this.runtime;
    const type = this.model.getInputTensorType(0, index);
    const buffer = bindings.LiteRtTensorBuffer.createManaged(
      environment,
      bindings.LiteRtTensorBufferType.HOST_MEMORY,
      type,
      array.byteLength,
    );
    type.delete();
    const address = buffer.lock(bindings.LiteRtTensorBufferLockMode.WRITE);
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    bindings.HEAPU8.set(bytes, address);
    buffer.unlock();
    return buffer;
  }

  taken(buffer, output) {
    const { bindings } = this.runtime;
    const address = buffer.lock(bindings.LiteRtTensorBufferLockMode.READ);
    const bytes = bindings.HEAPU8.slice(address, address + buffer.packedSize());
    buffer.unlock();
    buffer.delete();
    return new output.array(bytes.buffer);
  }

  /** Gives the model's memory back. */
  close() {
    this.compiled.delete();
    this.model.delete();
    this.runtime.bindings._free(this.address);
  }
}

function tensorOf(name, type) {
  const layout = type.layout();
  const code = type.elementType().value;
  const tensor = {
    name,
    shape: items(layout.dimensions()),
    length: layout.numElements(),
    array: ARRAYS[code],
  };
  layout.delete();
  type.delete();
  if (!tensor.array) throw new Error(`Tensor ${name} has a type that is not read here: ${code}.`);
  return tensor;
}

function items(vector) {
  const found = Array.from({ length: vector.size() }, (_, index) => vector.get(index));
  vector.delete();
  return found;
}

function wordsOf(error, said) {
  const errors = said.filter((line) => line.startsWith("ERROR"));
  return errors.at(-1) ?? error?.message ?? String(error);
}
