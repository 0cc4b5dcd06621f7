// The library in two dimensions: a canvas that pans and zooms over up to 100,000 points.

import * as api from "./api.js";
import { byId, el } from "./dom.js";

const CLOSE = 14; // pixels from the pointer within which a point is meant
const PICTURES = 60; // so many points in view, and they become pictures
const CELLS = 128; // of the grid by which points near the pointer are found

export class LibraryMap {
  /** @param {(id: string) => void} open */
  constructor(open) {
    this.open = open;
    this.canvas = /** @type {HTMLCanvasElement} */ (byId("map"));
    this.tip = byId("tip");
    this.data = null;
    this.view = { x: 0, y: 0, scale: 1 }; // the point in the middle, and zoom
    this.pictures = new Map();
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  async show() {
    this.data = await api.points();
    this.index();
    const { modalities, id, explained } = this.data;
    byId("legend").replaceChildren(...modalities.map((name, i) => el("li", { "data-kind": i % 6 }, name)));
    const shown = explained.reduce((sum, one) => sum + one, 0);
    byId("map-note").textContent = `${id.length.toLocaleString()} items, ${Math.round(100 * shown)} % of what tells them apart`;
    this.resize();
  }

  /** Points by cell, so that a pointer's neighbours are found without looking at all of them. */
  index() {
    this.cells = new Map();
    this.data.x.forEach((x, i) => {
      const key = this.cell(x) * CELLS + this.cell(this.data.y[i]);
      const list = this.cells.get(key);
      if (list) list.push(i);
      else this.cells.set(key, [i]);
    });
  }

  cell(value) {
    return Math.min(CELLS - 1, Math.max(0, Math.floor(((value + 1) / 2) * CELLS)));
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = this.canvas.clientWidth * ratio;
    this.canvas.height = this.canvas.clientHeight * ratio;
    this.draw();
  }

  get unit() { // pixels of the canvas to one unit of the map
    return (Math.min(this.canvas.width, this.canvas.height) / 2.1) * this.view.scale;
  }

  place(x, y) {
    return [this.canvas.width / 2 + (x - this.view.x) * this.unit, this.canvas.height / 2 - (y - this.view.y) * this.unit];
  }

  under(px, py) {
    return [this.view.x + (px - this.canvas.width / 2) / this.unit, this.view.y - (py - this.canvas.height / 2) / this.unit];
  }

  draw() {
    if (!this.pending) this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    if (!this.data || !width) return;
    const { x, y, modality, modalities } = this.data;
    const legend = byId("legend").children; // its dots have the colors as a canvas takes them
    const side = Math.max(3, Math.min(8, 3 + Math.sqrt(this.view.scale))) * (devicePixelRatio || 1);
    const unit = this.unit;
    const left = width / 2 - this.view.x * unit;
    const top = height / 2 + this.view.y * unit;
    const inView = [];
    for (let kind = 0; kind < modalities.length; kind++) {
      context.fillStyle = getComputedStyle(legend[kind], "::before").backgroundColor;
      for (let i = 0; i < x.length; i++) {
        if (modality[i] !== kind) continue;
        const px = left + x[i] * unit;
        const py = top - y[i] * unit;
        if (px < 0 || py < 0 || px > width || py > height) continue;
        context.fillRect(px - side / 2, py - side / 2, side, side);
        if (inView.length <= PICTURES) inView.push(i);
      }
    }
    if (inView.length <= PICTURES) this.paintPictures(context, inView);
  }

  paintPictures(context, inView) {
    const size = 56 * (devicePixelRatio || 1);
    for (const i of inView) {
      if (this.data.modalities[this.data.modality[i]] === "text") continue; // has no picture: its point stays
      const id = this.data.id[i];
      let picture = this.pictures.get(id);
      if (!picture) {
        picture = new Image();
        picture.onload = () => this.draw();
        picture.src = `/v1/items/${encodeURIComponent(id)}/thumbnail`;
        this.pictures.set(id, picture);
        if (this.pictures.size > 500) this.pictures.delete(this.pictures.keys().next().value);
      }
      if (!picture.complete || !picture.naturalWidth) continue;
      const scale = size / Math.max(picture.naturalWidth, picture.naturalHeight);
      const [px, py] = this.place(this.data.x[i], this.data.y[i]);
      const [w, h] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
      context.drawImage(picture, px - w / 2, py - h / 2, w, h);
    }
  }

  /** The item nearest to a place on the canvas, -1 if none is close. */
  nearest(px, py, within = CLOSE * (devicePixelRatio || 1)) {
    if (!this.data) return -1;
    const [x, y] = this.under(px, py);
    const reach = within / this.unit;
    let best = -1;
    let closest = reach * reach;
    for (let cx = this.cell(x - reach); cx <= this.cell(x + reach); cx++) {
      for (let cy = this.cell(y - reach); cy <= this.cell(y + reach); cy++) {
        for (const i of this.cells.get(cx * CELLS + cy) ?? []) {
          const distance = (this.data.x[i] - x) ** 2 + (this.data.y[i] - y) ** 2;
          if (distance <= closest) [best, closest] = [i, distance];
        }
      }
    }
    return best;
  }

  zoom(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
    const [x, y] = this.under(px, py);
    this.view.scale = Math.min(400, Math.max(0.8, this.view.scale * factor));
    const [nx, ny] = this.under(px, py);
    this.pan(x - nx, y - ny);
  }

  pan(dx, dy) {
    this.view.x = Math.min(1.2, Math.max(-1.2, this.view.x + dx));
    this.view.y = Math.min(1.2, Math.max(-1.2, this.view.y + dy));
    this.tip.hidden = true;
    this.draw();
  }

  reset() {
    this.view = { x: 0, y: 0, scale: 1 };
    this.draw();
  }

  listen() {
    const canvas = this.canvas;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const ratio = canvas.width / box.width;
      return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), ...at(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, at(event));
      this.moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = at(event);
      const before = this.pointers.get(event.pointerId);
      if (!before) return this.hover(now, event);
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (other) {
        const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
        this.zoom(apart(now) / Math.max(1, apart(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else {
        this.pan((before[0] - now[0]) / this.unit, (now[1] - before[1]) / this.unit);
      }
      this.pointers.set(event.pointerId, now);
    });
    const up = (event) => {
      const place = this.pointers.get(event.pointerId);
      this.pointers.delete(event.pointerId);
      if (!place || event.type !== "pointerup" || this.moved > 8) return;
      const found = this.nearest(...place);
      if (found >= 0) this.open(this.data.id[found]);
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    canvas.addEventListener("keydown", (event) => {
      const step = 0.15 / this.view.scale;
      const keys = {
        ArrowLeft: () => this.pan(-step, 0), ArrowRight: () => this.pan(step, 0),
        ArrowUp: () => this.pan(0, step), ArrowDown: () => this.pan(0, -step),
        "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4), 0: () => this.reset(),
        Enter: () => {
          const found = this.nearest(canvas.width / 2, canvas.height / 2, canvas.width);
          if (found >= 0) this.open(this.data.id[found]);
        },
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    byId("zoom-in").addEventListener("click", () => this.zoom(1.6));
    byId("zoom-out").addEventListener("click", () => this.zoom(1 / 1.6));
    byId("zoom-all").addEventListener("click", () => this.reset());
  }

  /** A moment over a point shows what it is. */
  hover(place, event) {
    const found = this.nearest(...place);
    if (found === this.hovered && !this.tip.hidden) return;
    this.hovered = found;
    clearTimeout(this.timer);
    this.tip.hidden = true;
    if (found < 0) return;
    const [left, top] = [event.offsetX, event.offsetY];
    this.timer = setTimeout(async () => {
      const one = await api.item(this.data.id[found]).catch(() => null);
      if (one === null || this.hovered !== found) return;
      this.tip.replaceChildren(
        one.modality === "text" ? "" : el("img", { src: one.thumbnail, alt: "" }),
        el("span", {}, one.caption || one.name));
      this.tip.style.left = `${Math.min(left + 12, this.canvas.clientWidth - 180)}px`;
      this.tip.style.top = `${top + 12}px`;
      this.tip.hidden = false;
    }, 120);
  }
}
