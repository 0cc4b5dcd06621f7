// The page: one box, its answers, and the map. Each part is in a file of its own; here they meet.

import { addInGroups } from "./adding.js";
import * as api from "./api.js";
import { byId } from "./dom.js";
import { Filters } from "./filters.js";
import { LibraryMap } from "./map.js";
import { Microphone } from "./microphone.js";
import { QueryParts, partOfFile } from "./query.js";
import { card, focusCard, moveByArrows, openViewer } from "./results.js";

const ANSWERS = 40;
const TYPING = 250; // milliseconds of quiet after which what is typed is searched

const form = /** @type {HTMLFormElement} */ (byId("query"));
const text = /** @type {HTMLInputElement} */ (byId("text"));
const results = byId("results");
let service = { modalities: ["text", "image", "audio"], items: {}, writable: false, limits: {} };
let running = new AbortController();

const parts = new QueryParts(() => search());
const filters = new Filters(form, () => search());
const actions = {
  more: (item) => parts.replace([{ ...partOfItem(item), weight: 1 }]),
  less: (item) => parts.add({ ...partOfItem(item), weight: -0.5 }),
  open: (item) => openViewer(item, {
    ...actions,
    ...(service.writable ? { remove } : {}),
    ...(service.describes ? { describe: (one) => api.describe(one.id), locate: (one, phrase) => api.locate(one.id, phrase), problem: sentence } : {}),
  }),
};
const map = new LibraryMap((id) => api.item(id).then(actions.open, complain));

function partOfItem(item) {
  return { modality: "item", source: item.id, label: `like ${item.caption || item.name}`,
    preview: item.modality === "text" ? undefined : item.thumbnail };
}

function say(message, wrong = false) {
  const status = byId("status");
  status.textContent = message;
  status.classList.toggle("wrong", wrong);
}

/** Searches for the chips and what stands in the box; the answers of an older search are dropped. */
async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const typed = text.value.trim();
  const asked = parts.parts.filter((part) => part.weight !== 0);
  const query = typed ? [...asked, { modality: "text", source: typed, weight: 1, label: typed }] : asked;
  remember(query);
  if (!query.length) {
    results.replaceChildren();
    results.removeAttribute("aria-busy");
    say("");
    return;
  }
  showSearch();
  results.setAttribute("aria-busy", "true");
  try {
    const answer = await api.search({
      parts: query.map(({ modality, source, weight }) => ({ modality, source, weight })),
      k: ANSWERS,
      filters: filters.value(),
    }, signal);
    results.replaceChildren(...answer.results.map((found) => card(found, query, actions)));
    beginWithFirst();
    const number = answer.results.length;
    const none = Object.keys(filters.value()).length ? "Nothing passes the filters." : "Nothing found.";
    say(number ? `${number} answers in ${Math.max(1, Math.round(answer.took * 1000))} ms` : none);
  } catch (error) {
    if (signal.aborted) return;
    results.replaceChildren();
    complain(error);
  } finally {
    if (!signal.aborted) results.removeAttribute("aria-busy");
  }
}

/** Puts the first answer in the tab order. */
function beginWithFirst() {
  if (results.firstElementChild) results.firstElementChild.tabIndex = 0;
}

function complain(error) {
  say(sentence(error), true);
}

function sentence(error) {
  if (!(error instanceof api.ApiError)) return "The service does not answer. Is it running?";
  const message = error.message.replace(/^input \d+: /, "This ");
  return message.charAt(0).toUpperCase() + message.slice(1);
}

/** A query of texts alone is kept in the address, to be bookmarked and gone back to. */
function remember(query) {
  const plain = query.length && query.every((part) => part.modality === "text" && part.weight === 1);
  const hash = plain ? `#${query.map((part) => `q=${encodeURIComponent(part.source)}`).join("&")}` : "";
  if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname);
}

function recall() {
  const asked = new URLSearchParams(location.hash.slice(1)).getAll("q");
  if (asked.length) parts.replace(asked.map((source) => ({ modality: "text", source, label: source, weight: 1 })));
}

async function searchByFiles(files) {
  for (const file of files) {
    try {
      parts.add(await partOfFile(file, service.modalities, service.limits));
    } catch (error) {
      say(`${file.name || "That"} ${error.message}`, true);
    }
  }
}

async function addFiles(files) {
  if (!files.length) return;
  const adding = (done) => say(`Adding ${files.length} ${files.length === 1 ? "file" : "files"} ...${done ? ` ${done} done` : ""}`);
  adding(0);
  try {
    const { added, refused } = await addInGroups(files, service.limits, adding);
    say([`${added} added.`, ...refused].join(" "), refused.length > 0);
  } catch (error) {
    complain(error);
  }
  await learn().catch(complain);
}

async function remove(item) {
  try {
    await api.remove(item.id);
    document.querySelector(`.card[data-id="${CSS.escape(item.id)}"]`)?.remove();
    if (!results.querySelector(".card[tabindex='0']")) beginWithFirst();
    say(`${item.caption || item.name} is no longer in the library.`);
    await learn();
    if (!byId("map-view").hidden) await map.show();
  } catch (error) {
    complain(error);
  }
}

/** What the service is and has. */
async function learn() {
  service = await api.about();
  const total = Object.values(service.items).reduce((sum, one) => sum + one, 0);
  byId("about").textContent = `${total.toLocaleString()} items \u00b7 ${service.model}`;
  byId("add-files").hidden = !service.writable;
  const media = service.modalities.filter((name) => ["image", "audio", "video"].includes(name));
  byId("file").setAttribute("accept", media.map((name) => `${name}/*`).join(","));
  filters.offer(service.items);
}

function showSearch() {
  view("search");
}

function view(name) {
  for (const one of ["search", "map"]) {
    byId(`${one}-view`).hidden = one !== name;
    byId(`show-${one}`).setAttribute("aria-pressed", String(one === name));
  }
}

function listen() {
  let quiet = 0;
  text.addEventListener("input", () => {
    clearTimeout(quiet);
    quiet = setTimeout(search, TYPING);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !text.value) parts.removeLast();
    if (event.key === "ArrowDown" && results.children.length) {
      event.preventDefault();
      focusCard(results, 0);
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(quiet);
    const typed = text.value.trim();
    text.value = "";
    if (typed) parts.add({ modality: "text", source: typed, label: typed });
    else search();
  });

  const file = /** @type {HTMLInputElement} */ (byId("file"));
  byId("pick").addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    await searchByFiles([...file.files]);
    file.value = "";
  });
  const added = /** @type {HTMLInputElement} */ (byId("add-input"));
  byId("add-files").addEventListener("click", () => added.click());
  added.addEventListener("change", async () => {
    await addFiles([...added.files]);
    added.value = "";
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    searchByFiles(files);
  });
  const drop = byId("drop");
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!carriesFiles(event)) return;
    event.preventDefault();
    searchByFiles([...event.dataTransfer.files]);
  });

  new Microphone((recording) => searchByFiles([recording]), (message) => say(message, true));
  moveByArrows(results);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=checkbox], [type=range])");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      text.focus();
    } else if (event.key === "Escape" && document.activeElement?.classList.contains("card")) {
      text.focus();
    }
  });

  byId("show-search").addEventListener("click", showSearch);
  byId("show-map").addEventListener("click", async () => {
    view("map");
    try {
      await map.show();
    } catch (error) {
      complain(error);
    }
  });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = getComputedStyle(root).colorScheme === "light dark"
      ? matchMedia("(prefers-color-scheme: dark)").matches : root.dataset.theme === "dark";
    root.dataset.theme = localStorage.theme = dark ? "light" : "dark";
    map.draw();
  });
  window.addEventListener("hashchange", recall);
}

let session = null; // that all who need one wait for, also when the dialog was closed without a key

function askForKey() {
  const dialog = /** @type {HTMLDialogElement} */ (byId("key-dialog"));
  const key = /** @type {HTMLInputElement} */ (byId("key"));
  session ??= new Promise((opened) => {
    byId("key-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await api.openSession(key.value);
        key.value = byId("key-error").textContent = "";
        dialog.close();
        session = null;
        opened();
      } catch (error) {
        byId("key-error").textContent = sentence(error);
      }
    };
  });
  if (!dialog.open) dialog.showModal();
  return session;
}

if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
api.onKeyNeeded(askForKey);
listen();
try {
  await learn();
  recall();
} catch (error) {
  complain(error);
}
text.focus();
