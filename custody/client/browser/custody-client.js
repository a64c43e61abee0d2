/**
 * The browser client of a custody daemon: one module, no dependencies, Web Crypto.
 *
 * docs/how-to/browser-client.md shows its use, custody-client.d.ts has its types. It does what
 * custody/client does in Python; tests/vectors/client.json is what both must match.
 */

const PATH = "/api/v1/me/encryption-vault";
const TRIES = 4;
const LONGEST_WAIT = 30; // seconds
const LARGEST_ANSWER = 1024 * 1024; // 200 audit rows with user agents as long as they may be
const KEY_BYTES = 32;
const WRAP_BYTES = 48;
const IV_BYTES = 12;
const KEY_USAGES = ["encrypt", "decrypt", "wrapKey", "unwrapKey"];
const RECOVERY_INFO = new TextEncoder().encode("mana-recovery-v1");

/** Any error of this client. None of them holds a key. */
export class CustodyError extends Error {
  constructor(code = "", { requestId = null, retryAfter = null } = {}) {
    super(code || new.target.name);
    this.name = new.target.name;
    this.code = code;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** 401: the token is refused, a fresh one too. */
export class SignInAgain extends CustodyError {}

/** 401 STEP_UP_REQUIRED: the user is signed in, but this needs a login made just now. */
export class StepUpRequired extends CustodyError {}

/** 429 or 503, after all tries: later. No reason to sign anybody out. */
export class Unavailable extends CustodyError {}

/** No answer came. Whether the daemon did it is not known. */
export class Unreachable extends CustodyError {}

/** The vault's state does not allow it; `code` says which state. */
export class Conflict extends CustodyError {}

/** 412: another device has rotated; unlock again. */
export class StaleGeneration extends CustodyError {}

/** Any other refusal; `code` says which. */
export class Failed extends CustodyError {}

/** An answer that is not one of the contract's. */
export class BadAnswer extends CustodyError {}

/** The vault's generation is older than one that this device has seen. */
export class RolledBack extends CustodyError {}

/** The vault is in zero-knowledge mode: unlock with the user's code. */
export class RecoveryCodeNeeded extends CustodyError {}

/** The code is well-formed, but does not open this wrap. */
export class WrongRecoveryCode extends CustodyError {}

/** Not 64 hexadecimal digits. */
export class MalformedRecoveryCode extends CustodyError {}

/** Make a new recovery code, for the user to keep. */
export function makeCode() {
  return formatCode(crypto.getRandomValues(new Uint8Array(KEY_BYTES)));
}

/** Write a secret of 32 bytes as a code: 16 groups of four upper-case hexadecimal digits. */
export function formatCode(secret) {
  if (secret.length !== KEY_BYTES) throw new MalformedRecoveryCode();
  const digits = Array.from(secret, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.toUpperCase().match(/.{4}/g).join("-");
}

/** Return the secret of a code; case, white space and dashes do not matter. */
export function parseCode(code) {
  const digits = String(code).replace(/[\s\ufeff-]/g, "");
  if (!/^[0-9a-fA-F]{64}$/.test(digits)) throw new MalformedRecoveryCode();
  return Uint8Array.from(digits.match(/../g), (pair) => Number.parseInt(pair, 16));
}

/** A user's vault. Its keys are given out as CryptoKeys that can't be exported. */
export class Vault {
  #base;
  #token;
  #pin;
  #fetch;
  #timeout;

  /** `timeout`: milliseconds for one request. */
  constructor({ address, token, pin, fetch = globalThis.fetch, timeout = 15_000 }) {
    if (!globalThis.crypto?.subtle) {
      throw new TypeError("Web Crypto is there on https: and localhost alone");
    }
    this.#base = baseOf(address);
    this.#token = token;
    this.#pin = pin;
    this.#fetch = (...sent) => fetch(...sent);
    this.#timeout = timeout;
  }

  /** Return what there is: four fields, and no key. */
  async status() {
    const answer = parsed(await this.#call("GET", "/status"));
    const { vaultExists, hasRecoveryWrap, zeroKnowledge, recoverySetAt } = answer;
    const flags = [vaultExists, hasRecoveryWrap, zeroKnowledge];
    if (!flags.every((flag) => typeof flag === "boolean") || !isMomentOrNull(recoverySetAt)) {
      throw new BadAnswer();
    }
    return { vaultExists, hasRecoveryWrap, zeroKnowledge, recoverySetAt };
  }

  /** Return a page of the user's own audit rows, the newest first; `next` is the next `before`. */
  async audit({ limit, before } = {}) {
    const query = new URLSearchParams();
    if (limit !== undefined) query.set("limit", limit);
    if (before !== undefined && before !== null) query.set("before", before);
    const { events, next } = parsed(await this.#call("GET", `/audit?${query}`));
    if (!Array.isArray(events) || !events.every(isEvent) || !isTextOrNull(next)) {
      throw new BadAnswer();
    }
    return { events, next };
  }

  /** Return the keys; a user without a vault gets one. In zero-knowledge mode the code opens them. */
  async unlock(code) {
    let answer;
    try {
      answer = await this.#keyed("GET", "/key");
    } catch (error) {
      // Who has seen a vault does not make another: it is gone, and so is its key.
      if (error?.code !== "VAULT_NOT_INITIALISED" || (await this.#seen()) !== null) throw error;
      answer = await this.#keyed("POST", "/init");
    }
    if (answer.key) return imported(answer);
    if (code === undefined || code === null) throw new RecoveryCodeNeeded();
    return keysOf(await unwrapped(answer, code), null, answer.generation);
  }

  /**
   * Store a wrap of the live key that the code was seen to open.
   *
   * In zero-knowledge mode the daemon has no key to give: `current`, the code of now, opens it.
   */
  async setRecoveryCode(code, current = code) {
    parseCode(code);
    await this.#withBytes(current, (key, generation) => this.#store(key, generation, code));
  }

  /** Turn it on with the code that the user typed; undone if the daemon's wrap is another's. */
  async enableZeroKnowledge(code) {
    parseCode(code);
    await this.#withBytes(code, async (key, generation) => {
      await this.#store(key, generation, code);
      await this.#switch({ enable: true }, generation);
      // Another device may have put its wrap between the two calls.
      const answer = await this.#keyed("GET", "/key");
      try {
        if (answer.key) throw new BadAnswer();
        await mustOpen(answer, code, key);
      } catch (error) {
        await this.#giveBack(key, generation);
        throw error;
      } finally {
        wipe(answer);
      }
    });
  }

  /** Turn it off: the daemon gets the key back, opened by the code. */
  async disableZeroKnowledge(code) {
    parseCode(code);
    await this.#withBytes(code, (key, generation) => this.#giveBack(key, generation));
  }

  /**
   * Rotate, or go on with a rotation that is pending; the old key goes last.
   *
   * Of several tabs one re-encrypts; the others wait for it, and have nothing left to do.
   */
  async rotate(reencrypt) {
    const locks = globalThis.navigator?.locks;
    if (!locks) return this.#rotate(reencrypt);
    const name = `custody rotation ${this.#base}`;
    const atOnce = { ifAvailable: true };
    const first = await locks.request(name, atOnce, (lock) => lock && this.#rotate(reencrypt));
    if (first) return first;
    const asked = await this.unlock();
    return locks.request(name, () => this.#rotate(reencrypt, asked));
  }

  /** Give up every key and begin again; sent once, and not to a vault that has moved on. */
  async reset() {
    const generation = (await this.#seen()) ?? undefined;
    const options = { body: { confirm: "destroy" }, generation, repeatable: false };
    return imported(await this.#keyed("POST", "/reset", options));
  }

  /** `asked`: the keys when this tab began to wait for another one's rotation. */
  async #rotate(reencrypt, asked = null) {
    let keys = await this.unlock();
    if (keys.previousMasterKey === null) {
      const over = asked?.previousMasterKey || keys.generation > asked?.generation;
      if (over) return keys;
      keys = await this.#begin(keys);
    }
    if (keys.previousMasterKey !== null) {
      await reencrypt(keys);
      const { generation } = keys;
      mustSay(await this.#call("DELETE", "/rotation", { generation }), { ok: true });
    }
    return keysOf(keys.masterKey, null, keys.generation);
  }

  async #begin({ generation }) {
    try {
      return await imported(await this.#keyed("POST", "/rotation", { generation }));
    } catch (error) {
      if (!(error instanceof StaleGeneration)) throw error;
      // Ours, whose answer was lost, or another device's: either way the pair is there.
      const keys = await this.unlock();
      if (keys.previousMasterKey === null) throw error;
      return keys;
    }
  }

  async #store(key, generation, code) {
    const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
    const algorithm = { name: "AES-GCM", iv };
    const wrapped = new Uint8Array(
      await crypto.subtle.encrypt(algorithm, await wrappingKey(code), key),
    );
    await mustOpen({ wrapped, iv }, code, key);
    const body = { recoveryWrappedMk: encoded(wrapped), recoveryIv: encoded(iv) };
    mustSay(await this.#call("POST", "/recovery-wrap", { body, generation }), { ok: true });
  }

  async #giveBack(key, generation) {
    await this.#switch({ enable: false, masterKey: encoded(key) }, generation);
  }

  async #switch(body, generation) {
    const answer = await this.#call("POST", "/zero-knowledge", { body, generation });
    mustSay(answer, { ok: true, zeroKnowledge: body.enable });
  }

  /** Fetch the live key for what needs its bytes; they are overwritten afterwards. */
  async #withBytes(code, use) {
    const answer = await this.#keyed("GET", "/key");
    try {
      answer.key ??= await opened(answer, code);
      await use(answer.key, answer.generation);
    } finally {
      wipe(answer);
    }
  }

  /** Call a route that answers with a key, or with the recovery wrap of one. */
  async #keyed(method, path, options) {
    const answer = keyAnswer(await this.#call(method, path, options));
    try {
      const seen = await this.#seen();
      if (seen !== null && answer.generation < seen) throw new RolledBack();
      if (seen === null || answer.generation > seen) await this.#pin.save(answer.generation);
    } catch (error) {
      wipe(answer);
      throw error;
    }
    return answer;
  }

  async #seen() {
    const seen = (await this.#pin.load()) ?? null;
    // Anything else would compare with any generation, and hide a rollback.
    if (seen !== null && !Number.isSafeInteger(seen)) {
      throw new TypeError("the pin's load() returns a number, or null");
    }
    return seen;
  }

  /** Send until there is an answer that counts; `repeatable`: to do it twice is to do it once. */
  async #call(method, path, { repeatable = true, ...options } = {}) {
    let token = await this.#token();
    let renewed = false;
    for (let tried = 0; ; tried += 1) {
      const last = tried === TRIES - 1;
      let error;
      try {
        const response = await this.#send(method, path, token, options);
        if (response.status === 200) return response;
        error = refusal(response);
      } catch (failed) {
        error = failed;
      }
      if (error instanceof SignInAgain && !renewed && !last) {
        renewed = true;
        token = await this.#token();
        continue;
      }
      const later = error instanceof Unavailable || error instanceof Unreachable;
      const pause = error?.retryAfter ?? 0.5 * 2 ** tried;
      if (!later || !repeatable || last || pause > LONGEST_WAIT) throw error;
      await new Promise((resolve) => setTimeout(resolve, pause * 1000));
    }
  }

  async #send(method, path, token, { body, generation }) {
    if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
      throw new TypeError("the token is no value of a header");
    }
    const headers = { Accept: "application/json", Authorization: `Bearer ${token}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (generation !== undefined) headers["If-Match"] = `"${generation}"`;
    try {
      const response = await this.#fetch(this.#base + path, {
        method,
        headers,
        body: body && JSON.stringify(body),
        credentials: "omit",
        cache: "no-store",
        redirect: "error",
        referrerPolicy: "no-referrer",
        signal: AbortSignal.timeout(this.#timeout),
      });
      return { status: response.status, headers: response.headers, body: await bodyOf(response) };
    } catch (error) {
      if (error instanceof TypeError || error instanceof DOMException) throw new Unreachable();
      throw error;
    }
  }
}

function baseOf(address) {
  const url = new URL(address);
  if (!/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
    throw new TypeError("the address is https://HOST[:PORT]");
  }
  const loopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
  if (url.protocol === "http:" && !loopback) {
    throw new TypeError("http: is for loopback only: keys would cross the network in clear");
  }
  return url.origin + url.pathname.replace(/\/+$/, "") + PATH;
}

async function bodyOf(response) {
  const pieces = [];
  let size = 0;
  const reader = response.body?.getReader();
  for (;;) {
    const { done, value } = reader ? await reader.read() : { done: true };
    if (done) break;
    size += value.length;
    if (size > LARGEST_ANSWER) {
      await reader.cancel();
      throw new BadAnswer();
    }
    pieces.push(value);
  }
  const body = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    body.set(piece, at);
    at += piece.length;
    piece.fill(0);
  }
  return body;
}

/** Raises what JSON.parse and TextDecoder raise. */
function json(body) {
  return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
}

function refusal({ status, headers, body }) {
  let code = "";
  try {
    const problem = json(body);
    if (typeof problem.code === "string") code = problem.code.slice(0, 64);
  } catch {
    // Of something between us and the daemon: the status is all there is.
  }
  const after = headers.get("retry-after") ?? "";
  const details = {
    requestId: headers.get("x-request-id"),
    retryAfter: /^[0-9]+$/.test(after) ? Number(after) : null,
  };
  if (status === 401 && code === "STEP_UP_REQUIRED") return new StepUpRequired(code, details);
  const kinds = {
    401: SignInAgain,
    409: Conflict,
    412: StaleGeneration,
    429: Unavailable,
    503: Unavailable,
  };
  return new (kinds[status] ?? Failed)(code, details);
}

function parsed({ body }) {
  let answer;
  try {
    answer = json(body);
  } catch {
    throw new BadAnswer();
  } finally {
    body.fill(0);
  }
  if (typeof answer !== "object" || answer === null) throw new BadAnswer();
  return answer;
}

function keyAnswer(response) {
  const answer = parsed(response);
  const tag = /^"([0-9]{1,18})"$/.exec(response.headers.get("etag") ?? "");
  const generation = tag && Number(tag[1]);
  if (!Number.isSafeInteger(generation)) throw new BadAnswer();
  if (answer.requiresRecoveryCode === true) {
    const wrapped = decoded(answer.recoveryWrappedMk, WRAP_BYTES);
    return { key: null, wrapped, iv: decoded(answer.recoveryIv, IV_BYTES), generation };
  }
  const key = decoded(answer.masterKey, KEY_BYTES);
  const before = answer.previousMasterKey ?? null;
  return { key, previous: before === null ? null : decoded(before, KEY_BYTES), generation };
}

/** Somebody in between, say, answers 200 to all. */
function mustSay(response, members) {
  const said = parsed(response);
  for (const [name, value] of Object.entries(members)) {
    if (said[name] !== value) throw new BadAnswer();
  }
}

function isMomentOrNull(value) {
  return value === null || (isText(value) && /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(value));
}

function isText(value) {
  return typeof value === "string";
}

function isTextOrNull(value) {
  return isText(value) || value === null;
}

function isEvent(event) {
  return (
    typeof event === "object" &&
    event !== null &&
    isText(event.id) &&
    isMomentOrNull(event.at) &&
    isText(event.action) &&
    isTextOrNull(event.context) &&
    Number.isInteger(event.status) &&
    isTextOrNull(event.ipAddress) &&
    isTextOrNull(event.userAgent)
  );
}

function encoded(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

function decoded(text, size) {
  let bytes;
  try {
    bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw new BadAnswer();
  }
  // atob forgives white space, missing padding and stray bits.
  if (bytes.length !== size || encoded(bytes) !== text) throw new BadAnswer();
  return bytes;
}

function wipe(answer) {
  answer.key?.fill(0);
  answer.previous?.fill(0);
}

async function imported(answer) {
  const taken = (bytes) => crypto.subtle.importKey("raw", bytes, "AES-GCM", false, KEY_USAGES);
  try {
    if (!answer.key) throw new BadAnswer();
    const key = await taken(answer.key);
    const previous = answer.previous && (await taken(answer.previous));
    return keysOf(key, previous, answer.generation);
  } finally {
    wipe(answer);
  }
}

function keysOf(masterKey, previousMasterKey, generation) {
  return Object.freeze({ masterKey, previousMasterKey, generation });
}

async function wrappingKey(code) {
  const secret = parseCode(code);
  try {
    const base = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveKey"]);
    // No salt: the secret has 256 bits of its own.
    const hkdf = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: RECOVERY_INFO };
    const kind = { name: "AES-GCM", length: 256 };
    return await crypto.subtle.deriveKey(hkdf, base, kind, false, KEY_USAGES);
  } finally {
    secret.fill(0);
  }
}

/** Open a wrap without its bytes ever being seen by a script. */
async function unwrapped({ wrapped, iv }, code) {
  const key = await wrappingKey(code);
  try {
    const by = { name: "AES-GCM", iv };
    return await crypto.subtle.unwrapKey("raw", wrapped, key, by, "AES-GCM", false, KEY_USAGES);
  } catch {
    throw new WrongRecoveryCode();
  }
}

async function opened({ wrapped, iv }, code) {
  const key = await wrappingKey(code);
  try {
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, wrapped));
  } catch {
    throw new WrongRecoveryCode();
  }
}

async function mustOpen(wrap, code, key) {
  const found = await opened(wrap, code);
  const same = found.every((byte, at) => byte === key[at]);
  found.fill(0);
  if (!same) throw new WrongRecoveryCode();
}
