// How a note is encrypted: the envelope that docs/how-to/python-client.md describes.
//
// Each note has a random key of its own, wrapped under the master key. A rotation wraps that key
// anew and leaves the note as it is. Both are AES-256-GCM with a fresh nonce, bound to the user, the
// note, its version and what it is, so that none opens in another's place.

const KEY = { name: "AES-GCM", length: 256 };
const encoder = new TextEncoder();

/** No key of this device opens the note: another device has a newer one, or its key is gone. */
export class NoKey extends Error {}

/** Encrypt a text as a new note of a user. */
export async function seal(text, user, keys) {
  const note = { user, id: crypto.randomUUID(), version: 1, at: Date.now() };
  const key = await crypto.subtle.generateKey(KEY, true, ["encrypt", "decrypt"]);
  const nonce = fresh();
  const record = await crypto.subtle.encrypt(
    sealed(nonce, note, "record"), key, encoder.encode(text),
  );
  return {
    ...note, ...(await wrap(key, note, keys)), nonce: encoded(nonce), record: encoded(record),
  };
}

/** Return a note's text. */
export async function open(note, keys) {
  const key = await unwrap(note, keys, false);
  const by = sealed(decoded(note.nonce), note, "record");
  return new TextDecoder().decode(await crypto.subtle.decrypt(by, key, decoded(note.record)));
}

/** Return the note with its key wrapped under the live master key. */
export async function rewrap(note, keys) {
  return { ...note, ...(await wrap(await unwrap(note, keys, true), note, keys)) };
}

async function wrap(key, note, { masterKey, generation }) {
  const nonce = fresh();
  const wrapped = await crypto.subtle.wrapKey("raw", key, masterKey, sealed(nonce, note, "key"));
  return { generation, keyNonce: encoded(nonce), wrappedKey: encoded(wrapped) };
}

function unwrap(note, { masterKey, previousMasterKey, generation }, extractable) {
  // The generation beside the wrap says which of the two keys opens it.
  const master = note.generation === generation ? masterKey : previousMasterKey;
  if (note.generation > generation || master === null) throw new NoKey();
  const by = sealed(decoded(note.keyNonce), note, "key");
  const wrapped = decoded(note.wrappedKey);
  const uses = ["encrypt", "decrypt"];
  return crypto.subtle.unwrapKey("raw", wrapped, master, by, KEY, extractable, uses);
}

function sealed(iv, { user, id, version }, kind) {
  const additionalData = encoder.encode(JSON.stringify([user, id, version, kind]));
  return { name: "AES-GCM", iv, additionalData };
}

const fresh = () => crypto.getRandomValues(new Uint8Array(12));
const encoded = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const decoded = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
