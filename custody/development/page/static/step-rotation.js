// Step 8: a rotation that loses nothing, whenever the page is reloaded.

import { act, say, view } from "/page/act.js";
import { byId, count } from "/page/dom.js";
import * as notes from "/page/notes.js";
import { reencrypt } from "/page/reencrypt.js";
import { session, tell } from "/page/session.js";

const FILLED = 200;
// So slow that one can reload in the middle: without it 200 notes take a moment.
const PAUSE = 12; // milliseconds a note

/** Wire up the step. */
export function start() {
  byId("fill").addEventListener("click", () => act("rotate", fill));
  byId("go").addEventListener("click", () => act("rotate", () => rotate(false)));
  byId("crash").addEventListener("click", () => act("rotate", () => rotate(true)));
  byId("zero-off").addEventListener("submit", (event) => {
    event.preventDefault();
    act("rotate", turnOff);
  });
  view(show);
}

async function fill() {
  const texts = Array.from({ length: FILLED }, (_, at) =>
    `Note ${at + 1} of ${FILLED}: nothing of this is to be lost.`);
  await notes.write(texts, session.user, session.keys);
  tell("notes");
  return `${FILLED} notes are encrypted, each under a key of its own.`;
}

async function turnOff() {
  await session.vault.disableZeroKnowledge(byId("off-code").value);
  byId("off-code").value = "";
  return "Zero-knowledge mode is off: the server can open your key again.";
}

async function rotate(crashes) {
  const { user, vault } = session;
  session.keys = await vault.rotate(async (keys) => {
    await reencrypt(await watched(await notes.storeOf(user), keys, crashes), user)(keys);
  });
  tell("rotated");
  const all = await notes.all(user);
  await Promise.all(all.map((note) => notes.read(note, user, session.keys)));
  return `${count(all.length, "note")} moved, and every one was opened with the new key. The key before is gone, and your recovery code with it: make another.`;
}

/** Return the store as one may watch it at work, and have it crash. */
async function watched(store, { generation }, crashes) {
  const all = await store.all();
  let done = all.filter((note) => note.generation === generation).length;
  const half = done + Math.floor((all.length - done) / 2);
  return {
    all: store.all,
    async put(record) {
      if (crashes && done === half) await crash();
      const kept = await store.put(record);
      if (kept) {
        progress(done += 1, all.length);
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
      return kept;
    },
  };
}

function crash() {
  location.reload();
  return new Promise(() => {}); // nothing comes after that
}

function progress(done, all) {
  byId("progress").hidden = false;
  byId("progress-text").textContent = `${done} of ${count(all, "note")} under the new key`;
  byId("bar").max = all;
  byId("bar").value = done;
}

function showPending(done, all) {
  progress(done, all);
  const left = count(all - done, "note");
  say("rotate", `A rotation is under way, with ${left} to go. The server gives both keys, so nothing is lost.`, "note");
}

function show({ keys, row, notes: kept }) {
  const pending = keys !== null && keys.previousMasterKey !== null;
  const zero = row?.zero_knowledge === true;
  byId("rotate").querySelector("fieldset").disabled = keys === null;
  byId("zero-off").hidden = !zero;
  byId("rotation").hidden = zero;
  byId("fill").hidden = pending;
  byId("crash").hidden = pending;
  byId("go").textContent = pending ? "Go on with the rotation" : "Rotate";
  byId("go").classList.toggle("strong", pending);
  if (pending) showPending(kept.filter((note) => note.generation === keys.generation).length, kept.length);
}
