// Notes in records that are kept in this browser, as if an app had synced them to all its devices.
// How a record is encrypted, and when one is kept, is that of the documents: records.js, store.js.

import { open, seal } from "/page/records.js";
import { openStore } from "/page/store.js";

const stores = new Map();
const utf8 = new TextEncoder();
let last = 0;

/** The note was not kept: another device has rotated, and this key is on its way out. */
export class OldKey extends Error {}

/** Return the store of a user, who need not be the one who is signed in. */
export function storeOf(user) {
  if (!stores.has(user)) stores.set(user, openStore(user));
  return stores.get(user);
}

/** Return a user's records, the newest first. */
export async function all(user) {
  return (await (await storeOf(user)).all()).reverse();
}

/** Encrypt texts as new notes of a user, and keep them, in their order. */
export async function write(texts, user, keys) {
  const store = await storeOf(user);
  const sealed = texts.map((text) =>
    seal(keys, user, { id: newId(), version: 1, content: utf8.encode(text) }));
  const kept = await Promise.all((await Promise.all(sealed)).map((record) => store.put(record)));
  if (!kept.every(Boolean)) throw new OldKey();
}

/** Return the text of a note. */
export async function read(record, user, keys) {
  return new TextDecoder().decode(await open(keys, user, record));
}

/** Let go of a user's records; `pin`: and of what is known of the vault. */
export async function forget(user, { pin = false } = {}) {
  await storeOf(user);
  const opening = indexedDB.open(`records of ${user}`);
  const database = await ended(opening, "onsuccess", "onerror");
  const names = pin ? ["records", "seen"] : ["records"];
  const change = database.transaction(names, "readwrite");
  names.forEach((name) => change.objectStore(name).clear());
  await ended(change, "oncomplete", "onabort");
  database.close();
}

/** By time; no two of several tabs are alike. */
function newId() {
  last = Math.max(last + 1, Date.now());
  const random = crypto.getRandomValues(new Uint8Array(3));
  return `${last}-${Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function ended(request, well, badly) {
  return new Promise((resolve, reject) => {
    request[well] = () => resolve(request.result);
    request[badly] = () => reject(request.error);
  });
}
