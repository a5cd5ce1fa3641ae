// A file of export-tflite in a browser: its contract, its preprocessing, its normalization, its self-test.
//
//   import {Encoder} from "./embedlite.js";
//   const encoder = await Encoder.open("model.int8.tflite", "./node_modules/@litertjs/core/wasm/");
//   const vector = await encoder.embed(await createImageBitmap(file));   // Float32Array
//
// LiteRT for the web runs the graph. Everything else is here, and is what docs/file.md says of the file.

import {Tensor, loadAndCompile, loadLiteRt} from "@litertjs/core";

const SCHEMA = 1;
const PIXEL_TOLERANCE = 1e-6; // of the largest value: two roundings of float32
const FLOAT_TOLERANCE = 1e-4; // of the largest value: only the order of additions differs
const LEAST_DB = 10, MOST_DB = 40, DOUBLE_DB = 20 * Math.log10(2); // docs/file.md, "Golden vectors"

/** What is wrong, in one sentence that says what to do. */
export class EmbedliteError extends Error {}

export class Encoder {
  /**
   * Open a file and compile it.
   * @param {string | ArrayBuffer} model address or content of a `.tflite` that export-tflite wrote
   * @param {string} wasm folder of LiteRT's WebAssembly files, with a slash at its end
   */
  static async open(model, wasm) {
    if (!WebAssembly.validate(SIMD)) {
      throw new EmbedliteError("This browser has no WebAssembly SIMD, which LiteRT needs. Use a browser of 2021 or later.");
    }
    const content = typeof model === "string" ? await download(model) : model;
    const file = await readModel(content);
    const {input, output_dtype: output} = file.contract;
    if (input.dtype !== "float32" || output !== "float32") {
      throw new EmbedliteError(
        `The file takes ${input.dtype} and gives ${output}; LiteRT for the web takes and gives floats only. Export it ` +
        "without --input-type and --output-type: the layers between are integers all the same.");
    }
    litert ??= loadLiteRt(wasm);
    await litert;
    return new Encoder(file, await loadAndCompile(file.flatbuffer, {accelerator: "wasm"}));
  }

  constructor({contract, golden}, compiled) {
    Object.assign(this, {contract, golden, compiled});
  }

  /** Embed an ImageBitmap, ImageData, canvas or image element; gives a Float32Array of contract.output_shape. */
  async embed(image) {
    return this.embedPixels(toPixels(image, this.contract.input));
  }

  /** Embed pixels that have the model's size, channels and colour order already (Uint8Array, H × W × C). */
  async embedPixels(pixels) {
    const {contract} = this;
    const ready = prepare(pixels, contract.input);
    const tensor = new Tensor(ready, [1, ...contract.input.shape]);
    try {
      const [result] = await this.compiled.run(tensor);
      try {
        return finish(result.toTypedArray().slice(), contract);
      } finally {
        result.delete();
      }
    } finally {
      tensor.delete();
    }
  }

  /** Replay the golden vectors: whether this browser computes what the export did. */
  async selftest() {
    const {contract, golden} = this;
    if (!golden) {
      throw new EmbedliteError("The file carries no golden vectors, so there is nothing to replay. Export it again.");
    }
    const table = prepareTable(contract.input);
    const checks = [check("preprocessing", relative(table, golden.ready.data), PIXEL_TOLERANCE, true)];
    const [count, height, width, channels] = golden.pixels.shape;
    const size = golden.embeddings.data.length / count;
    for (let row = 0; row < count; row++) {
      const part = golden.pixels.data.subarray(row * height * width * channels, (row + 1) * height * width * channels);
      const found = await this.embedPixels(stretch(part, height, width, contract.input));
      const stored = golden.embeddings.data.subarray(row * size, (row + 1) * size);
      const reference = golden.reference.data.subarray(row * size, (row + 1) * size);
      if (contract.mode === "float32" || contract.mode === "float16") {
        const distance = relative(found, stored);
        const half = contract.half_precision;
        checks.push(half && !(distance <= FLOAT_TOLERANCE) ?
          check(`embedding ${row}`, decibels(found, stored), quantizedLimit(half.sqnr_db ?? Infinity), false) :
          check(`embedding ${row}`, distance, FLOAT_TOLERANCE, true));
      } else {
        checks.push(check(`embedding ${row}`, decibels(found, stored), quantizedLimit(decibels(stored, reference)), false));
      }
    }
    return {passed: checks.every(({passed}) => passed), checks, madeBy: golden.runtime};
  }

  /** Give the memory back; the garbage collector does not see it. */
  close() {
    this.compiled.delete();
  }
}

// How near a quantized file must come to its golden vectors: at most twice as far as it was from the float encoder.
function quantizedLimit(exported) {
  return Math.min(Math.max(exported - DOUBLE_DB, LEAST_DB), MOST_DB);
}

let litert = null;

// A function that uses v128: what a browser without SIMD refuses.
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

async function download(address) {
  const answer = await fetch(address);
  if (!answer.ok) {
    throw new EmbedliteError(`${address} cannot be read: the server answers ${answer.status}. Check the address.`);
  }
  return answer.arrayBuffer();
}

// The file -----------------------------------------------------------------------------------------------------------

/** Contract, golden vectors and flatbuffer; checked before anything runs. */
export async function readModel(content) {
  const entries = readZip(content);
  if (!entries || !entries["embedlite.json"]) {
    throw new EmbedliteError("The file has no contract: mean, std and size are unknown. Export it with export-tflite.");
  }
  const contract = JSON.parse(new TextDecoder().decode(entries["embedlite.json"]));
  if (contract.schema !== SCHEMA) {
    throw new EmbedliteError(`The file's contract has schema ${contract.schema}; this page reads ${SCHEMA}. Update the page.`);
  }
  checkNormalization(contract.normalization);
  const flatbuffer = new Uint8Array(content, 0, contract.flatbuffer_bytes);
  if (!globalThis.crypto?.subtle) {
    throw new EmbedliteError("This page cannot verify the file: browsers do so only over https or on localhost.");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", flatbuffer));
  if (Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") !== contract.flatbuffer_sha256) {
    throw new EmbedliteError("The file is damaged: its checksum is not the contract's. Copy or export it again.");
  }
  const packed = entries["golden.npz"];
  return {contract, flatbuffer, golden: packed ? readNpz(packed) : null};
}

/** Entries of a zip without compression, by name; null if the bytes do not end in one. */
function readZip(buffer) {
  const view = buffer instanceof ArrayBuffer ? new DataView(buffer) :
    new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  let end = view.byteLength - 22;
  while (end >= 0 && end > view.byteLength - 65557 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) return null;
  const directory = end - view.getUint32(end + 12, true);
  // Offsets count from where the zip begins, which is after the flatbuffer.
  const start = directory - view.getUint32(end + 16, true);
  const entries = {};
  let place = directory;
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const name = textAt(view, place + 46, view.getUint16(place + 28, true));
    if (view.getUint16(place + 10, true) !== 0) {
      throw new EmbedliteError(`The entry ${name} is compressed; export-tflite writes none that is. Export the file again.`);
    }
    const local = start + view.getUint32(place + 42, true);
    const from = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    entries[name] = new Uint8Array(view.buffer, view.byteOffset + from, view.getUint32(place + 24, true));
    place += 46 + view.getUint16(place + 28, true) + view.getUint16(place + 30, true) + view.getUint16(place + 32, true);
  }
  return entries;
}

function readNpz(bytes) {
  const arrays = {};
  for (const [name, content] of Object.entries(readZip(bytes))) arrays[name.replace(/\.npy$/, "")] = readNpy(content);
  return {...arrays, runtime: arrays.runtime.data};
}

/** An array of numpy's format, version 1: {shape, data}. */
function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint16(8, true);
  const header = textAt(view, 10, length);
  const type = /'descr': '([^']+)'/.exec(header)[1];
  const shape = [.../'shape': \(([^)]*)\)/.exec(header)[1].matchAll(/\d+/g)].map(Number);
  const body = bytes.slice(10 + length);
  if (type.startsWith("<U")) return {shape, data: String.fromCodePoint(...new Uint32Array(body.buffer)).replace(/\0+$/, "")};
  const Kind = {"|u1": Uint8Array, "<f4": Float32Array}[type];
  return {shape, data: new Kind(body.buffer)};
}

function textAt(view, place, length) {
  return new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + place, length));
}

// Pixels -------------------------------------------------------------------------------------------------------------

/** Any image as the contract's H × W × C pixels: channels first, then the size, as Encoder in Python does. */
export function toPixels(image, {shape: [height, width, channels], color_order: order, resampler, ...how}) {
  for (const [name, value, mine] of [
    ["resampler", resampler, resampler === "nearest" || resampler in FILTERS ? resampler : "Pillow's filters"],
    ["fit", how.fit, "stretch"],
    ["exif", how.exif, "apply"],
    ["jpeg_decoder", how.jpeg_decoder, "pillow"],
    ["gray", order === "gray" ? how.gray : "pillow", "pillow"],
  ]) {
    if ((value ?? mine) !== mine) {
      throw new EmbedliteError(
        `The file's contract says ${name} ${value}; this page reads images with ${mine} only. Prepare the pixels and ` +
        "call embedPixels.");
    }
  }
  const {data, width: from, height: rows} = image instanceof ImageData ? image : drawn(image);
  const picked = {rgb: [0, 1, 2], bgr: [0, 1, 2], rgba: [0, 1, 2, 3], gray: null}[order];
  if (picked === undefined) throw new EmbedliteError(`The model takes ${channels} channels, which no image has.`);
  const plane = new Uint8Array(from * rows * channels);
  for (let pixel = 0; pixel < from * rows; pixel++) {
    const [red, green, blue] = [data[4 * pixel], data[4 * pixel + 1], data[4 * pixel + 2]];
    // ITU-R 601-2 luma with 16 bits, as Pillow computes it.
    if (!picked) plane[pixel] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else for (const channel of picked) plane[pixel * channels + channel] = data[4 * pixel + channel];
  }
  const resized = resize(plane, rows, from, height, width, channels, resampler);
  if (order === "bgr") for (let at = 0; at < resized.length; at += 3) {
    [resized[at], resized[at + 2]] = [resized[at + 2], resized[at]];
  }
  return resized;
}

function drawn(image) {
  const canvas = new OffscreenCanvas(image.naturalWidth ?? image.width, image.naturalHeight ?? image.height);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Support and kernel of Pillow's resampling filters; bicubic is Keys' with a = -0.5.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => {
    const t = Math.abs(x);
    return t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? ((t - 5) * t + 8) * t * -0.5 + 2 : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

const PRECISION = 2 ** 22; // of the weights, as in Pillow, so that the pixels are the same

function resize(pixels, height, width, newHeight, newWidth, channels, resampler) {
  if (height === newHeight && width === newWidth) return pixels;
  if (resampler === "nearest") {
    const out = new Uint8Array(newHeight * newWidth * channels);
    for (let y = 0, at = 0; y < newHeight; y++) {
      const row = Math.floor((y + 0.5) * height / newHeight);
      for (let x = 0; x < newWidth; x++) {
        const from = (row * width + Math.floor((x + 0.5) * width / newWidth)) * channels;
        for (let channel = 0; channel < channels; channel++) out[at++] = pixels[from + channel];
      }
    }
    return out;
  }
  // Columns first and rounded, then rows. Pillow 13 sometimes begins with the rows where that is less work, mostly for
  // pictures that are much higher than wide; pixels then differ by one level, as they do between its versions.
  const wide = width === newWidth ? pixels : along(pixels, height, width, newWidth, channels, channels, width * channels, resampler);
  return height === newHeight ? wide :
    along(wide, newWidth, height, newHeight, channels, newWidth * channels, channels, resampler);
}

/** Resize one axis: `lines` lines of `from` pixels that lie `step` apart; lines begin `line` apart. */
function along(pixels, lines, from, to, channels, step, line, resampler) {
  const [support, kernel] = FILTERS[resampler];
  const scale = from / to, stretchBy = Math.max(scale, 1), reach = support * stretchBy;
  const horizontal = step === channels;
  const out = new Uint8Array(lines * to * channels);
  for (let x = 0; x < to; x++) {
    const center = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(from, Math.trunc(center + reach + 0.5));
    const raw = Array.from({length: last - first}, (_, at) => kernel((at + first - center + 0.5) / stretchBy));
    const sum = raw.reduce((a, b) => a + b, 0);
    const weights = raw.map((weight) => {
      const scaled = weight / (sum || 1) * PRECISION;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    for (let y = 0; y < lines; y++) {
      for (let channel = 0; channel < channels; channel++) {
        let total = PRECISION / 2;
        weights.forEach((weight, at) => { total += weight * pixels[y * line + (first + at) * step + channel]; });
        const place = horizontal ? (y * to + x) * channels : (x * lines + y) * channels;
        out[place + channel] = Math.min(255, Math.max(0, Math.floor(total / PRECISION)));
      }
    }
  }
  return out;
}

/** (pixel - mean) / std in float32, rounded after each of the two. */
function prepare(pixels, {mean, std}) {
  const ready = new Float32Array(pixels.length);
  const means = mean.map(Math.fround), stds = std.map(Math.fround);
  for (let at = 0; at < pixels.length; at++) {
    ready[at] = Math.fround(Math.fround(pixels[at] - means[at % means.length]) / stds[at % stds.length]);
  }
  return ready;
}

/** What each pixel value becomes, (256, C). */
function prepareTable(input) {
  const channels = input.shape[2];
  return prepare(Uint8Array.from({length: 256 * channels}, (_, at) => Math.floor(at / channels)), input);
}

function stretch(pixels, height, width, {shape: [newHeight, newWidth, channels]}) {
  const out = new Uint8Array(newHeight * newWidth * channels);
  for (let y = 0, at = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const from = (Math.floor(y * height / newHeight) * width + Math.floor(x * width / newWidth)) * channels;
      for (let channel = 0; channel < channels; channel++) out[at++] = pixels[from + channel];
    }
  }
  return out;
}

// Numbers ------------------------------------------------------------------------------------------------------------

// What finish() can compute: the divisors of each kind, and what an epsilon may do to them.
const DIVISORS = {minmax: ["shifted", "input"], l2: ["shifted"]};
const EPSILON_MODES = ["max", "add", "none"];

/** Refuse a normalization that is left to the reader and is not known here; it would silently be another one. */
function checkNormalization({placement, kind, divisor, epsilon_mode: mode}) {
  if (placement !== "runtime" || kind === "none") return;
  if (Object.hasOwn(DIVISORS, kind) && DIVISORS[kind].includes(divisor) && EPSILON_MODES.includes(mode)) return;
  throw new EmbedliteError(
    `The file leaves a normalization to its reader that this page does not know (${kind}, divisor ${divisor}, epsilon ` +
    `${mode}). Update the page, or export the file with --normalization graph.`);
}

/** From the output tensor to the embedding: normalized where the file leaves that to its reader. */
function finish(x, {output_shape: shape, normalization}) {
  if (normalization.placement !== "runtime" || normalization.kind === "none") return x;
  const {kind, divisor, epsilon, epsilon_mode: mode} = normalization;
  const group = grouping(shape, normalization.axes);
  // In double, where neither a difference nor a square of float32 leaves the range.
  const low = {}, high = {}, squares = {};
  x.forEach((value, at) => {
    const key = group(at);
    low[key] = Math.min(low[key] ?? Infinity, value);
    high[key] = Math.max(high[key] ?? -Infinity, value);
    squares[key] = (squares[key] ?? 0) + value * value;
  });
  return Float32Array.from(x, (value, at) => {
    const key = group(at);
    const below = kind === "l2" ? Math.sqrt(squares[key]) : divisor === "shifted" ? high[key] - low[key] : high[key];
    const guarded = mode === "max" ? Math.max(below, epsilon) : mode === "add" ? below + epsilon : below;
    return guarded === 0 ? 0 : (kind === "l2" ? value : value - low[key]) / guarded;
  });
}

/** Which values share a minimum, a maximum or a norm; axes count the batch as 0. */
function grouping(shape, axes) {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const kept = shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis + 1));
  return (at) => kept.map((axis) => Math.floor(at / strides[axis]) % shape[axis]).join();
}

function relative(found, stored) {
  let largest = 1e-30, distance = 0;
  stored.forEach((value, at) => {
    largest = Math.max(largest, Math.abs(value));
    const apart = Math.abs(found[at] - value);
    distance = Number.isNaN(apart) ? Infinity : Math.max(distance, apart);
  });
  return distance / largest;
}

/** Signal to noise, dB. */
export function decibels(found, stored) {
  let signal = 0, noise = 0;
  stored.forEach((value, at) => {
    signal += value * value;
    noise += (found[at] - value) ** 2;
  });
  return Number.isNaN(noise) ? -Infinity : 10 * Math.log10(signal / noise);
}

function check(name, value, limit, atMost) {
  return {name, value, limit, passed: atMost ? value <= limit : value >= limit};
}
