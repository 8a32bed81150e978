// The page: takes a picture, shows what the network sees of it and what it answers.
//
// window.ddq is for tests: ready, told, run(codes), codes(blob).

import { Model, loadRuntime } from "./model.js";
import { codesOf, resized, windowOf } from "./pixels.js";

const SHOWN = 5;
const ARRAYS = { int8: Int8Array, uint8: Uint8Array, float32: Float32Array };
const at = (id) => document.getElementById(id);
let taken = 0; // pictures, so that a slow one does not cover a later one's answer

async function start() {
  say("Loading the model …");
  const told = await (await fetched("ddq_web.json")).json();
  introduce(told);
  const content = new Uint8Array(await (await fetched(told.file)).arrayBuffer());
  const asked = new URLSearchParams(location.search);
  const runtime = asked.has("compat")
    ? await loadRuntime(told.runtime.folder, false)
    : await loadRuntime(told.runtime.folder);
  const model = await Model.open(runtime, content);
  const run = async (codes) => (await model.run([codes]))[0];
  await run(new model.inputs[0].array(model.inputs[0].length)); // the first run is slower
  Object.assign(window.ddq, { told, runtime, run, codes: async (blob) => (await seen(blob, told)).codes });
  listen((file) => answer(file, told, run));
  say("Choose a picture; it stays in this browser.");
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`The server does not give the file ${name} (${answer.status}).`);
  return answer;
}

function introduce(told) {
  document.title = told.name;
  at("name").textContent = told.name;
  const classes = `${told.output.classes} ${told.output.classes === 1 ? "output" : "classes"}`;
  const facts = [`${told.bytes.toLocaleString("en")} bytes`, `${sized(told.input)} pixels`, classes];
  at("facts").replaceChildren(...facts.map((fact) => made("li", fact)));
  at("runtime").textContent =
    `Runs in this browser with LiteRT.js ${told.runtime.version}. Pictures are not sent anywhere.`;
  at("drop").style.aspectRatio = `${told.input.width} / ${told.input.height}`;
}

function listen(take) {
  const drop = at("drop");
  const input = at("file");
  input.disabled = false;
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  // On the whole page, or a picture dropped beside the frame would replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else complain("What was dropped is no file. Save the picture first, then drop its file.");
  });
}

async function answer(file, told, run) {
  const turn = ++taken;
  at("problem").hidden = true;
  try {
    const before = performance.now();
    const picture = await seen(file, told);
    const ready = performance.now();
    const result = await run(picture.codes);
    const done = performance.now();
    if (turn !== taken) return;
    show(picture, told.input, file.name);
    list(confidences(result, told.output), told);
    at("times").textContent =
      `${(done - ready).toFixed(1)} ms in the network, ` +
      `${(ready - before).toFixed(1)} ms to read and fit the picture`;
    say("");
  } catch (error) {
    if (turn === taken) complain(error.message);
  }
}

/** Returns a picture as the network sees it: {rgb, codes, size}. */
async function seen(blob, told) {
  const bitmap = await decoded(blob);
  const { input } = told;
  const part = windowOf(bitmap.width, bitmap.height, input, input.crop);
  const canvas = new OffscreenCanvas(part.width, part.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, -part.left, -part.top);
  const { data } = context.getImageData(0, 0, part.width, part.height);
  const size = sized(bitmap);
  bitmap.close();
  const rgb = resized(data, part.width, part.height, input, input.resize);
  return { rgb, codes: codesOf(rgb, input, ARRAYS[input.type]), size };
}

async function decoded(blob) {
  try {
    return await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("This file is no picture that the browser can read. Choose a JPEG or a PNG.");
  }
}

function show({ rgb, size }, { width, height }, name) {
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    rgba.set(rgb.subarray(from, from + 3), to);
  }
  const canvas = at("seen");
  Object.assign(canvas, { width, height, hidden: false });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  at("invitation").hidden = true;
  at("drop").classList.add("full");
  at("caption").textContent =
    `${name}, ${size} pixels, as the network sees it: ${sized(canvas)}. ` +
    "Drop or choose another.";
}

/** Returns a number for each class: probabilities, or the bare value of a single output. */
function confidences(codes, { classes, scale, zero_point, activation }) {
  const values = Array.from(codes, (code) => (scale === null ? code : (code - zero_point) * scale));
  if (activation !== "none" || classes === 1) return values;
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

function list(shares, { labels, output }) {
  const order = shares.map((_, index) => index).sort((a, b) => shares[b] - shares[a]);
  const isShare = output.classes > 1 || output.activation === "sigmoid";
  const rows = order.slice(0, SHOWN).map((index) => {
    const share = shares[index];
    const row = made("div", "", "row");
    const label = made("span", labels[index] ?? `class ${index}`, "label");
    row.append(label, made("span", isShare ? `${(share * 100).toFixed(1)} %` : share.toFixed(3)));
    const item = made("li", "");
    item.append(row);
    if (isShare) {
      const bar = Object.assign(document.createElement("progress"), { max: 1, value: share });
      bar.setAttribute("aria-hidden", "true");
      item.append(bar);
    }
    return item;
  });
  at("answers").replaceChildren(...rows);
}

function sized({ width, height }) {
  return `${width}\u00a0×\u00a0${height}`;
}

function made(tag, text, name = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className: name });
}

function say(words) {
  at("status").textContent = words;
  at("status").hidden = !words;
}

function complain(words) {
  at("problem").textContent = words;
  at("problem").hidden = false;
}

window.ddq = {};
window.ddq.ready = start().catch((error) => {
  say("");
  complain(error.message);
  throw error;
});
