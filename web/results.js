// Answers as cards: what each is, how to hear or see it, and why it was found.

import { byId, el, icon, time } from "./dom.js";

/**
 * @param {any} found an answer of the service, or an item
 * @param {{label: string}[]} parts of the query, in the order of `why`
 * @param {{more: (item: any) => void, less: (item: any) => void, open: (item: any) => void}} actions
 */
export function card(found, parts, actions) {
  const name = found.caption || found.name;
  const node = el(
    "li",
    { class: "card", "data-id": found.id, "data-modality": found.modality, tabindex: -1, "aria-label": name },
    media(found, () => actions.open(found)),
    el("div", { class: "about" },
      el("p", { class: "caption" }, icon(found.modality), el("span", { title: name }, name)),
      el("p", { class: "quiet place", title: `${found.folder}/${found.name}` }, describe(found)),
      parts.length ? why(found, parts) : null,
      el("p", { class: "actions" },
        el("button", { type: "button", class: "plain", onclick: () => actions.more(found) }, "More like this"),
        el("button", { type: "button", class: "plain", onclick: () => actions.less(found) }, "Less like this"))),
  );
  node.addEventListener("keydown", (event) => {
    if (event.target !== node) return;
    if (event.key === "Enter") actions.open(found);
    else if (event.key === "m") actions.more(found);
    else return;
    event.preventDefault();
  });
  return node;
}

function describe(found) {
  const facts = [found.duration === null ? null : time(found.duration), found.label || null, found.folder];
  return facts.filter((fact) => fact && fact !== ".").join(" \u00b7 ") || found.name;
}

/** The address of the file, from where the part that was found begins. */
const played = (found) => (found.start ? `${found.media}#t=${found.start}` : found.media);

function media(found, open) {
  const name = found.caption || found.name;
  if (found.modality === "video") {
    return el("video", { controls: true, preload: "none", poster: found.thumbnail, src: played(found), "aria-label": name });
  }
  const picture = el("img", { src: found.thumbnail, alt: "", loading: "lazy", decoding: "async" });
  if (found.modality === "audio") {
    return el("div", { class: "heard" }, picture,
      el("audio", { controls: true, preload: "none", src: played(found), "aria-label": name }));
  }
  const shown = found.thumbnail ? picture : el("span", { class: "words" }, name);
  return el("button", { type: "button", class: "look", "aria-label": `Open ${name}`, onclick: open }, shown);
}

/** A bar for each part of the query: the cosine similarity of the answer with it. */
function why(found, parts) {
  return el("ul", { class: "why", "aria-label": "Why it was found" },
    ...found.why.map((value, index) => {
      const label = parts[index]?.label ?? "";
      const bar = el("span", { class: "bar", "data-part": index % 6 });
      bar.style.setProperty("--share", String(Math.min(1, Math.max(0, value))));
      return el("li", { title: `${label}: ${value.toFixed(3)}` }, el("span", { class: "what" }, label), bar,
        el("span", { class: "number" }, value.toFixed(2)));
    }));
}

/** The item at full size in a dialog. */
export function openViewer(found, actions) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("viewer"));
  const name = found.caption || found.name;
  const kinds = {
    image: () => el("img", { src: found.media, alt: name }),
    audio: () => el("div", {}, el("img", { src: found.thumbnail, alt: "" }), el("audio", { controls: true, src: played(found), "aria-label": name })),
    video: () => el("video", { controls: true, src: played(found), poster: found.thumbnail, "aria-label": name }),
  };
  // A depth map, say: its file is nothing that a browser shows.
  const other = () => (found.thumbnail ? el("img", { src: found.thumbnail, alt: name }) : el("p", { class: "words" }, name));
  const close = () => dialog.close();
  const act = (action) => () => {
    close();
    action(found);
  };
  const asked = actions.describe && found.modality === "image";
  const shown = (kinds[found.modality] ?? other)();
  byId("viewer-body").replaceChildren(
    asked ? el("div", { class: "located" }, shown) : shown,
    el("h2", {}, name),
    asked ? questions(found, shown, actions) : null,
    el("p", { class: "quiet" }, `${found.folder}/${found.name}`),
    found.tags.length ? el("p", { class: "quiet" }, `Tags: ${found.tags.join(", ")}`) : null,
    el("p", { class: "actions" },
      el("button", { type: "button", class: "strong", onclick: act(actions.more) }, "More like this"),
      el("a", { class: "plain", href: played(found), target: "_blank", rel: "noopener" }, "Open the file"),
      actions.remove ? removal(act(actions.remove)) : null,
      el("button", { type: "button", class: "plain", onclick: close }, "Close")),
  );
  dialog.showModal();
}

/** A button that asks before it removes: of what was uploaded the file goes, too. */
function removal(remove) {
  const question = "Remove it from the library?";
  const group = el("span", { class: "actions", role: "group", "aria-label": question });
  const button = (kind, label, onclick) => el("button", { type: "button", class: kind, onclick }, label);
  const first = button("plain danger", "Remove from the library", () => {
    const keep = button("plain", "Keep it", () => {
      group.replaceChildren(first);
      first.focus();
    });
    group.replaceChildren(el("span", {}, question), button("plain danger", "Remove it", remove), keep);
    keep.focus();
  });
  group.append(first);
  return group;
}

/** What a model says of the picture: its description, and a box around what is looked for. */
function questions(found, picture, actions) {
  const said = el("p", { class: "quiet said", role: "status" });
  const phrase = el("input", { type: "text", maxlength: 500, required: true, placeholder: "the red apple", "aria-label": "What to look for" });
  const ask = (wanted) => async () => {
    said.textContent = "\u2026";
    try {
      said.textContent = await wanted();
    } catch (error) {
      said.textContent = actions.problem(error);
    }
  };
  const describe = ask(async () => (await actions.describe(found)).caption || "No words came.");
  const locate = ask(async () => {
    const answer = await actions.locate(found, phrase.value.trim());
    outline(picture, answer.box);
    return `${answer.phrase}: ${answer.box.map(Math.round).join(", ")}`;
  });
  const form = el("form", { class: "actions", onsubmit: (event) => { event.preventDefault(); locate(); } },
    el("button", { type: "button", class: "plain", onclick: describe }, "Describe"),
    phrase, el("button", { type: "submit", class: "plain" }, "Where is it?"));
  return el("div", {}, form, said);
}

/** A box over a picture, in pixels of the original. */
function outline(picture, [left, top, right, bottom]) {
  picture.parentElement.querySelector(".outline")?.remove();
  const box = el("span", { class: "outline", "aria-hidden": "true" });
  const share = { left: left / picture.naturalWidth, top: top / picture.naturalHeight,
    width: (right - left) / picture.naturalWidth, height: (bottom - top) / picture.naturalHeight };
  for (const [side, value] of Object.entries(share)) box.style.setProperty(side, `${100 * value}%`);
  picture.after(box);
}

/** Arrow keys among the cards of a grid; one of them is in the tab order. */
export function moveByArrows(list) {
  list.addEventListener("keydown", (event) => {
    const cards = [...list.children];
    const here = cards.indexOf(document.activeElement);
    if (here < 0) return;
    const across = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    const next = event.key === "Home" ? 0 : event.key === "End" ? cards.length - 1 : here + (steps[event.key] ?? NaN);
    if (!cards[next]) return;
    event.preventDefault();
    focusCard(list, next);
  });
}

export function focusCard(list, index) {
  for (const one of list.children) one.tabIndex = -1;
  const chosen = list.children[index];
  if (!chosen) return;
  chosen.tabIndex = 0;
  chosen.focus();
}
