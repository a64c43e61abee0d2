// Step 3: notes, as the user sees them and as they are kept.

import { act, view } from "/page/act.js";
import { byId, count, make, short } from "/page/dom.js";
import { read, write } from "/page/notes.js";
import { session, tell } from "/page/session.js";

const SHOWN = 2;

/** Wire up the step. */
export function start() {
  byId("note").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    act("note", async () => {
      await write([byId("text").value], session.user, session.keys);
      byId("text").value = "";
      tell("notes");
      return "Encrypted and kept. custody was not asked.";
    });
  });
  view(show);
}

async function show({ keys, notes: kept }) {
  byId("note").querySelector("fieldset").disabled = keys === null;
  byId("note").classList.toggle("done", kept.length > 0);
  const shown = await Promise.all(kept.slice(0, SHOWN).map((note, at) => article(note, keys, at === 0)));
  const more = kept.length - shown.length;
  byId("notes").replaceChildren(...shown, ...(more > 0 ? [make("p", { class: "quiet" }, `and ${count(more, "older note")}`)] : []));
}

async function article(note, keys, isFirst) {
  const { text, opens } = await reading(note, keys);
  return make("article", { class: "note" },
    make("p", { class: opens ? "text" : "text shut" }, text),
    make("details", { open: isFirst }, make("summary", {}, "What is kept of it"), make("dl", {},
      line("content", base64(note.content), "the note, under its own key"),
      line("iv", base64(note.iv), "12 bytes, fresh"),
      line("wrappedKey", base64(note.wrappedKey), "that key, under the vault’s"),
      line("keyIv", base64(note.keyIv), "12 bytes, fresh"),
      line("generation", String(note.generation), "which key of the vault"),
      line("id, version", `${note.id}, ${note.version}`, "both are bound to you, by associated data"),
    )));
}

const base64 = (bytes) => btoa(String.fromCharCode(...bytes));

function line(name, value, what) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, make("code", {}, short(value, 12)), " ",
    make("span", { class: "quiet" }, what)));
}

/** Return a note's text, or why there is none. */
async function reading(note, keys) {
  if (keys === null) return { text: "Locked: this tab has no key.", opens: false };
  try {
    return { text: await read(note, session.user, keys), opens: true };
  } catch {
    const newer = note.generation > keys.generation;
    return { text: newer ? "Another device has rotated the key: unlock again." : "No key opens this note.", opens: false };
  }
}
