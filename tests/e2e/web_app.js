// The app that the tests of the browser client drive: the module, and the programs of the pages.
import * as custody from "/custody-client.js";
import * as records from "/records.js";
import { reencrypt } from "/reencrypt.js";
import { openStore } from "/store.js";

// Pauses between tries are shorter; the time of a request is not measured by this.
const setTimer = globalThis.setTimeout;
globalThis.setTimeout = (then, milliseconds) => setTimer(then, milliseconds / 20);

const user = new URLSearchParams(location.search).get("user");
const address = new URLSearchParams(location.search).get("vault");
const opened = await openStore(user);
const store = {
  ...opened,
  async put(record) {
    const done = await opened.put(record);
    app.puts += 1;
    return done;
  },
};
const token = async () => (await fetch(`/token?user=${user}`)).text();
const open = (options = {}) => new custody.Vault({ address, token, pin: store.pin, ...options });

const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
const BINARY = ["keyIv", "wrappedKey", "iv", "content"];
const convert = (record, how) => ({
  ...record,
  ...Object.fromEntries(BINARY.map((name) => [name, how(record[name])])),
});
const kind = (error) => ({
  error: error instanceof custody.CustodyError ? error.constructor.name : `${error}`,
  code: error.code,
  requestId: error.requestId,
  retryAfter: error.retryAfter,
});

const app = {
  custody,
  records,
  store,
  user,
  address,
  open,
  vault: open(),
  keys: null,

  /** A record as JSON has it, and back. */
  sent: (record) => convert(record, base64),
  taken: (record) => convert(record, bytes),
  /** What a call came to: what it returned, or its error by name. */
  async outcome(call) {
    try {
      return (await call()) ?? null;
    } catch (error) {
      return kind(error);
    }
  },
  /** What may be told of keys. */
  told: (keys) => ({ generation: keys.generation, pending: keys.previousMasterKey !== null }),
  async unlock(code) {
    app.keys = await app.vault.unlock(code);
    return app.told(app.keys);
  },
  /** Rotate; with `held`, the tab waits in the middle until a test lets it go on. */
  async rotate({ held = false, vault = app.vault } = {}) {
    app.keys = await vault.rotate(async (keys) => {
      app.reencrypts += 1;
      if (held) await new Promise((resolve) => (app.goOn = resolve));
      await reencrypt(store, user)(keys);
    });
    return app.told(app.keys);
  },
  reencrypts: 0,
  puts: 0,
  goOn: null,
  async write(id, text, version = 1) {
    const content = new TextEncoder().encode(text);
    return store.put(await records.seal(app.keys, user, { id, version, content }));
  },
  async fill(count) {
    for (let at = 0; at < count; at += 1) await app.write(`note-${at}`, `text of ${at}`);
  },
  /** Open every record; return how many say what they should. */
  async read() {
    let good = 0;
    for (const record of await store.all()) {
      const text = new TextDecoder().decode(await records.open(app.keys, user, record));
      if (text === `text of ${record.id.slice(5)}`) good += 1;
    }
    return good;
  },
  /** Rotate; return the milliseconds. */
  async timed() {
    const began = performance.now();
    await app.rotate();
    return performance.now() - began;
  },
  /** All rows of the user's own log, the oldest first. */
  async log() {
    const rows = [];
    let before = null;
    do {
      const { events, next } = await app.vault.audit({ limit: 7, before });
      rows.unshift(...events.reverse());
      before = next;
    } while (before !== null);
    return rows.map(({ action, context, status }) => [action, context, status]);
  },
  /** What a script finds in the page and beside it. */
  async everything() {
    const stored = await store.all();
    const names = performance.getEntries().map((entry) => entry.name);
    const page = document.documentElement.outerHTML;
    const kept = [{ ...localStorage }, { ...sessionStorage }, document.cookie, history.state];
    return JSON.stringify([page, names, kept, stored.map(app.sent), stored, app.keys, app.pair]);
  },
  /** From now on keep, in `seen`, bytes that are secrets: imported, wrapped, or got from a wrap. */
  keepSecrets() {
    const { subtle } = crypto;
    const { importKey, encrypt, decrypt } = subtle;
    app.seen = [];
    subtle.importKey = (format, secret, ...rest) => {
      app.seen.push(secret);
      return importKey.call(subtle, format, secret, ...rest);
    };
    subtle.encrypt = (by, key, secret) => {
      app.seen.push(secret);
      return encrypt.call(subtle, by, key, secret);
    };
    subtle.decrypt = async (...given) => {
      const secret = await decrypt.apply(subtle, given);
      app.seen.push(new Uint8Array(secret));
      return secret;
    };
  },
  /** What `unlock` asks for where it gets this answer, and what comes of it. */
  async asks({ status, body, ...headers }) {
    const asked = [];
    const fetch = async (url, { headers: named, signal, body: none, ...options }) => {
      asked.push({ address: url, headers: named, options });
      return new Response(body, { status, headers });
    };
    const vault = open({ address: "https://vault.example/under/", token: () => "a.b", fetch });
    const { error } = await app.outcome(() => vault.unlock());
    return asked.map((one) => ({ ...one, error }));
  },
};
globalThis.app = app;
