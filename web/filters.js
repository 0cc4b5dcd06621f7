// Filters: a form that becomes the `filters` of a search.

import { byId, el, icon } from "./dom.js";

/** When a day begins where the visitor is, or one some days `later`. @param {string} day 2024-05-01 */
function midnight(day, later = 0) {
  const moment = new Date(`${day}T00:00`);
  moment.setDate(moment.getDate() + later);
  return moment;
}

export class Filters {
  /** @param {HTMLFormElement} form @param {() => void} changed */
  constructor(form, changed) {
    this.form = form;
    this.box = byId("filters");
    this.box.addEventListener("change", () => {
      this.count();
      changed();
    });
    form.addEventListener("reset", () => setTimeout(() => {
      this.count();
      changed();
    }));
  }

  /** @param {Record<string, number>} items how many there are of each kind */
  offer(items) {
    const field = byId("filter-modality");
    const chosen = new FormData(this.form).getAll("modality");
    field.replaceChildren(el("legend", {}, "Kind"), ...Object.entries(items).map(([name, count]) => {
      const box = el("input", { type: "checkbox", name: "modality", value: name });
      box.checked = chosen.includes(name);
      return el("label", {}, box, icon(name), `${name} (${count})`);
    }));
    this.count();
  }

  value() {
    const data = new FormData(this.form);
    const text = (name) => String(data.get(name) ?? "").trim();
    const filters = {};
    const modality = data.getAll("modality").map(String);
    if (modality.length) filters.modality = modality;
    const tag = text("tag").split(",").map((one) => one.trim()).filter(Boolean);
    if (tag.length) filters.tag = tag;
    for (const name of ["caption", "folder"]) if (text(name)) filters[name] = text(name);
    if (text("after")) filters.after = midnight(text("after")).toISOString();
    if (text("before")) filters.before = new Date(midnight(text("before"), 1).getTime() - 1).toISOString().replace("Z", "999Z");
    for (const name of ["min_duration", "max_duration"]) if (text(name)) filters[name] = Number(text(name));
    return filters;
  }

  count() {
    const number = Object.keys(this.value()).length;
    byId("filter-count").textContent = number ? `(${number})` : "";
  }
}
