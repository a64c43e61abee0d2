// As docs/how-to/encrypt-records.md shows it, to the letter.
const utf8 = new TextEncoder();
const random = () => crypto.getRandomValues(new Uint8Array(12));
const gcm = (iv, what, user, { id, version }) => ({
  name: "AES-GCM",
  iv,
  additionalData: utf8.encode(["custody-record-v1", what, user, id, version].join("\0")),
});

export async function seal(keys, user, { id, version, content }) {
  const key = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt"]);
  const iv = random();
  const sealed = await crypto.subtle.encrypt(gcm(iv, "content", user, { id, version }), key, content);
  const record = { id, version, iv, content: new Uint8Array(sealed) };
  return wrap(keys, user, record, key);
}

export async function open(keys, user, record) {
  const key = await unwrap(keys, user, record, false);
  return new Uint8Array(
    await crypto.subtle.decrypt(gcm(record.iv, "content", user, record), key, record.content),
  );
}

// For a rotation: the content stays as it is.
export async function rewrap(keys, user, record) {
  if (record.generation === keys.generation) return record;
  return wrap(keys, user, record, await unwrap(keys, user, record, true));
}

async function wrap(keys, user, record, key) {
  const keyIv = random();
  const by = gcm(keyIv, "key", user, record);
  const wrapped = await crypto.subtle.wrapKey("raw", key, keys.masterKey, by);
  return { ...record, generation: keys.generation, keyIv, wrappedKey: new Uint8Array(wrapped) };
}

function unwrap(keys, user, record, extractable) {
  const live = record.generation === keys.generation;
  const master = live ? keys.masterKey : keys.previousMasterKey;
  const by = gcm(record.keyIv, "key", user, record);
  const uses = ["encrypt", "decrypt"];
  return crypto.subtle.unwrapKey("raw", record.wrappedKey, master, by, "AES-GCM", extractable, uses);
}
