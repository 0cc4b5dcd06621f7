// What is being searched for: the parts of the query, shown as chips with weights.

import { byId, el, icon } from "./dom.js";

/**
 * @typedef {object} Part
 * @property {string} modality  text, image, audio, ... or item
 * @property {string} source    the text, a data: URL, or the id of an item
 * @property {number} weight
 * @property {string} label     what the chip says
 * @property {string} [preview] address of a small picture
 */

const STEP = 0.25;
const MOST = 2;

export class QueryParts {
  /** @param {() => void} changed called when the parts or their weights have changed */
  constructor(changed) {
    /** @type {Part[]} */
    this.parts = [];
    this.changed = changed;
    this.list = byId("chips");
  }

  /** @param {Omit<Part, "weight"> & {weight?: number}} part */
  add(part) {
    this.parts.push({ weight: 1, ...part });
    this.draw();
    this.changed();
  }

  /** @param {Part[]} parts */
  replace(parts) {
    this.forget(this.parts);
    this.parts = parts;
    this.draw();
    this.changed();
  }

  removeLast() {
    if (this.parts.length) this.remove(this.parts.length - 1);
  }

  remove(index) {
    this.forget(this.parts.splice(index, 1));
    this.draw();
    this.changed();
  }

  forget(parts) {
    for (const part of parts) if (part.preview?.startsWith("blob:")) URL.revokeObjectURL(part.preview);
  }

  draw() {
    this.list.replaceChildren(...this.parts.map((part, index) => this.chip(part, index)));
  }

  chip(part, index) {
    const weight = el("input", {
      type: "range", min: -MOST, max: MOST, step: STEP, value: part.weight,
      "aria-label": `Weight of ${part.label}`, title: "Weight; below zero takes away",
    });
    const shown = el("output", {}, weightText(part.weight));
    const chip = el(
      "li",
      { class: "chip", "data-part": index % 6 },
      part.preview ? el("img", { src: part.preview, alt: "" }) : icon(part.modality),
      el("span", { class: "label", title: part.label }, part.label),
      weight,
      shown,
      el("button", { type: "button", class: "icon", "aria-label": `Remove ${part.label}`, onclick: () => {
        this.remove(index);
        byId("text").focus();
      } }, icon("close")),
    );
    const show = () => chip.classList.toggle("negative", part.weight < 0);
    show();
    weight.addEventListener("input", () => {
      part.weight = Number(weight.value);
      shown.textContent = weightText(part.weight);
      show();
    });
    weight.addEventListener("change", () => this.changed());
    return chip;
  }
}

const weightText = (weight) => (weight < 0 ? `\u2212${-weight}` : `\u00d7${weight}`);

const AS_TEXT = 1.4; // times as many bytes: base64, and what else is in a request

/**
 * A part made of a file that was dropped, pasted, chosen or recorded. A large picture is made smaller first.
 * @param {File} file @param {string[]} modalities
 * @param {{request_bytes?: number, pixels?: number}} [limits] of a request, and of a picture in it
 * @throws {Error} it is not searched by; the message says why, after its name
 */
export async function partOfFile(file, modalities, { request_bytes = Infinity, pixels = Infinity } = {}) {
  const family = file.type.split("/")[0];
  const modality = modalities.includes(family) ? family : family === "video" && modalities.includes("audio") ? "audio" : null;
  if (modality === null || family === "text") throw new Error("is neither a picture nor a sound.");
  const sent = family === "image" ? await smaller(file, pixels) : file;
  if (sent.size * AS_TEXT > request_bytes) {
    throw new Error(`is too large to search by${family === "image" ? ", and this browser cannot make it smaller" : ""}.`);
  }
  const preview = family === "image" ? URL.createObjectURL(sent) : undefined;
  return { modality, source: await dataUrl(sent), label: file.name || "pasted", preview };
}

const SIDE = 1024; // pixels; no model here looks closer, and a phone's photograph is ten times as much to send

async function smaller(file, pixels) {
  const picture = await createImageBitmap(file).catch(() => null);
  if (picture === null) return file; // a type that this browser does not know; the service may
  if (file.size < 1 << 20 && picture.width * picture.height <= pixels) {
    picture.close();
    return file;
  }
  const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const paper = canvas.getContext("2d");
  paper.fillStyle = "white"; // behind what is transparent, as the service reads it; a JPEG would have it black
  paper.fillRect(0, 0, width, height);
  paper.drawImage(picture, 0, 0, width, height);
  picture.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

/** @returns {Promise<string>} */
function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(/** @type {string} */ (reader.result));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}
