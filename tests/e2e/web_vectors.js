// Holds the browser client against tests/vectors/client.json; returns what does not match.
import * as custody from "/custody-client.js";
import * as records from "/records.js";

const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
const hex = (array) => Array.from(array, (one) => one.toString(16).padStart(2, "0")).join("");
const tag = { ETag: '"1"' };

/** What a call came to: its value, or the name of its error. */
async function came(call) {
  try {
    return { value: await call() };
  } catch (error) {
    const known = error instanceof custody.CustodyError;
    return { error: known ? error.constructor.name : `${error}`, thrown: error };
  }
}

/** A vault whose daemon is a list of answers; null for one that never comes. */
function scripted(answers, pin = null) {
  const script = { pin, sent: [], waits: [] };
  let asked = 0;
  const fetch = async (address, { method, headers }) => {
    script.sent.push({
      method,
      path: new URL(address).pathname.replace("/api/v1/me/encryption-vault", ""),
      ifMatch: headers["If-Match"] ?? null,
      token: Number(headers.Authorization.slice(7)),
    });
    const answer = answers[script.sent.length - 1];
    if (!answer) throw new TypeError("network error");
    const { status, headers: fields, body } = answer;
    return new Response(body || null, { status, headers: fields });
  };
  script.vault = new custody.Vault({
    address: "https://vault.example",
    token: () => `${(asked += 1)}`,
    pin: { load: () => script.pin, save: (generation) => (script.pin = generation) },
    fetch,
  });
  return script;
}

async function timed(script, call) {
  const before = globalThis.setTimeout;
  globalThis.setTimeout = (then, milliseconds) => {
    script.waits.push(milliseconds / 1000);
    queueMicrotask(then);
  };
  try {
    return await came(call);
  } finally {
    globalThis.setTimeout = before;
  }
}

/** Whether a key is these bytes: both make the same of the same. */
async function is(key, text) {
  if (key === null || text === null) return key === text;
  const other = await crypto.subtle.importKey("raw", bytes(text), "AES-GCM", false, ["encrypt"]);
  const by = { name: "AES-GCM", iv: new Uint8Array(12) };
  const [one, two] = await Promise.all(
    [key, other].map((each) => crypto.subtle.encrypt(by, each, new Uint8Array(32))),
  );
  return !key.extractable && hex(new Uint8Array(one)) === hex(new Uint8Array(two));
}

async function imported(text) {
  const uses = ["encrypt", "decrypt", "wrapKey", "unwrapKey"];
  return crypto.subtle.importKey("raw", bytes(text), "AES-GCM", false, uses);
}

function parsedRecord(record) {
  const names = ["keyIv", "wrappedKey", "iv", "content"];
  return { ...record, ...Object.fromEntries(names.map((name) => [name, bytes(record[name])])) };
}

export async function check(vectors) {
  const wrong = [];
  let checked = 0;
  const must = (holds, ...what) => {
    checked += 1;
    if (!holds) wrong.push(what.map((one) => JSON.stringify(one)).join(" "));
  };
  const same = (one, other, ...what) =>
    must(JSON.stringify(one) === JSON.stringify(other), ...what, one, other);

  const blob = ({ recoveryWrappedMk, recoveryIv }) => ({
    status: 200,
    headers: tag,
    body: JSON.stringify({ requiresRecoveryCode: true, recoveryWrappedMk, recoveryIv }),
  });
  for (const one of vectors.opens) {
    const secret = Uint8Array.from(one.secret.match(/../g), (pair) => Number.parseInt(pair, 16));
    same(custody.formatCode(secret), one.code, "formatCode");
    for (const code of [one.code, ...one.alsoTyped]) {
      same(hex(custody.parseCode(code)), one.secret, "parseCode");
      const { vault } = scripted([blob(one)]);
      must(await is((await vault.unlock(code)).masterKey, one.masterKey), "opens", code);
    }
  }
  for (const code of vectors.malformed) {
    same((await came(() => custody.parseCode(code))).error, "MalformedRecoveryCode", code);
  }
  for (const one of vectors.doesNotOpen) {
    const { vault } = scripted([blob(one)]);
    same((await came(() => vault.unlock(one.code))).error, "WrongRecoveryCode", "opened");
  }

  for (const one of vectors.records.opens) {
    const { generation } = one.record;
    const keys = { masterKey: await imported(one.masterKey), previousMasterKey: null, generation };
    const record = parsedRecord(one.record);
    const opened = await records.open(keys, one.user, record);
    same(hex(opened), hex(bytes(one.plaintext)), one.user);
  }
  for (const one of vectors.records.doesNotOpen) {
    const { generation } = one.record;
    const keys = { masterKey: await imported(one.masterKey), previousMasterKey: null, generation };
    const outcome = await came(() => records.open(keys, one.user, parsedRecord(one.record)));
    same(outcome.thrown?.name, "OperationError", one.why);
  }

  for (const one of vectors.refusals) {
    const script = scripted(Array(4).fill(one.answer), 1);
    const { error, thrown } = await timed(script, () => script.vault.unlock());
    same([error, thrown?.code, thrown?.retryAfter], [one.error, one.code, one.retryAfter]);
  }
  for (const one of vectors.malformedAnswers) {
    const script = scripted([one.answer]);
    const { error } = await timed(script, () => script.vault.unlock(vectors.opens[0].code));
    same([error, script.pin], ["BadAnswer", null], one.why);
  }
  for (const one of vectors.exchanges) {
    const script = scripted(
      one.steps.map((step) => step.answer),
      one.pin,
    );
    let reencrypts = 0;
    const calls = {
      unlock: () => script.vault.unlock(one.code),
      rotate: () => script.vault.rotate(async () => (reencrypts += 1)),
    };
    const { value, error } = await timed(script, calls[one.call]);
    same(error, one.error, one.name);
    same(
      script.sent,
      one.steps.map((step) => step.request),
      one.name,
    );
    same(
      [script.waits, script.pin, reencrypts],
      [one.waits, one.pinAfter, one.reencrypts],
      one.name,
    );
    if (one.result) {
      same(value.generation, one.result.generation, one.name);
      must(await is(value.masterKey, one.result.masterKey), one.name, "masterKey");
      must(await is(value.previousMasterKey, one.result.previousMasterKey), one.name, "previous");
    }
  }
  return { checked, wrong };
}
