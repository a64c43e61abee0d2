// Step 8: a rotation that loses nothing, whenever the page is reloaded.

import { act, say, view } from "/page/act.js";
import { byId, count } from "/page/dom.js";
import * as notes from "/page/notes.js";
import { open, rewrap, seal } from "/page/records.js";
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
  const made = Array.from({ length: FILLED }, (_, at) =>
    seal(`Note ${at + 1} of ${FILLED}: nothing of this is to be lost.`, session.user, session.keys));
  const inOrder = (await Promise.all(made)).map((note, at) => ({ ...note, at: note.at + at }));
  await notes.put(inOrder);
  tell("notes");
  return `${FILLED} notes are encrypted, each under a key of its own.`;
}

async function turnOff() {
  await session.vault.disableZeroKnowledge(byId("off-code").value);
  byId("off-code").value = "";
  return "Zero-knowledge mode is off: the server can open your key again.";
}

async function rotate(crashes) {
  session.keys = await session.vault.rotate((keys) => reencrypt(keys, crashes));
  tell("rotated");
  const all = await notes.all(session.user);
  await Promise.all(all.map((note) => open(note, session.keys)));
  return `${count(all.length, "note")} moved, and every one was opened with the new key. The key before is gone, and your recovery code with it: make another.`;
}

/**
 * Have every note under the new key; the client tells custody afterwards, and the old key goes.
 *
 * It may end anywhere: the next time it goes on with the notes that are left.
 */
async function reencrypt(keys, crashes) {
  await notes.refuseBefore(session.user, keys.generation);
  const all = await notes.all(session.user);
  const left = all.filter((note) => note.generation < keys.generation);
  for (const [at, note] of left.entries()) {
    if (crashes && at === Math.floor(left.length / 2)) await crash();
    await notes.put([await rewrap(note, keys)]);
    progress(all.length - left.length + at + 1, all.length);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
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
  say("rotate", `A rotation is under way. ${left} still under the key before, and the server gives both keys: nothing is lost.`, "note");
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
