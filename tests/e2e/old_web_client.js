// How the web client of the service that custody replaces talks to it, stated anew: no If-Match, no
// generation, Content-Type on every call, every 2xx parsed, and three more tries of whatever failed.
const query = new URLSearchParams(location.search);
const vault = `${query.get("vault")}/api/v1/me/encryption-vault`;
const pause = () => new Promise((then) => setTimeout(then, 20));
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
const random = (size) => crypto.getRandomValues(new Uint8Array(size));

async function attempt(method, path, body) {
  const token = await (await fetch(`/token?user=${query.get("user")}`)).text();
  return fetch(vault + path, {
    method,
    credentials: "include",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
}

async function request(method, path, body) {
  for (let left = 3; ; left -= 1) {
    const response = await attempt(method, path, body).catch((error) => {
      if (!left) throw error;
    });
    const passing = !response || response.status >= 500 || [408, 429].includes(response.status);
    if (!passing || !left) {
      const answer = await response.json();
      if (response.ok) return answer;
      throw Object.assign(new Error(answer.error), { status: response.status, code: answer.code });
    }
    await pause();
  }
}

async function recoveryKey(secret) {
  const base = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveKey"]);
  const info = new TextEncoder().encode("mana-recovery-v1");
  const hkdf = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(0), info };
  const kind = { name: "AES-GCM", length: 256 };
  return crypto.subtle.deriveKey(hkdf, base, kind, false, ["encrypt", "decrypt"]);
}

async function crypt(how, raw, iv, data) {
  const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, [how]);
  return new Uint8Array(await crypto.subtle[how]({ name: "AES-GCM", iv }, key, data));
}

/** A device; it holds the key in memory. */
class Device {
  key = null;

  async unlock(secret) {
    let answer;
    try {
      answer = await request("GET", "/key");
    } catch (error) {
      if (error.status !== 404 || error.code !== "VAULT_NOT_INITIALISED") throw error;
      answer = await request("POST", "/init");
    }
    if (answer.requiresRecoveryCode === true) {
      if (!secret) return "needs-code";
      const by = { name: "AES-GCM", iv: bytes(answer.recoveryIv) };
      const wrapped = bytes(answer.recoveryWrappedMk);
      this.key = new Uint8Array(
        await crypto.subtle.decrypt(by, await recoveryKey(secret), wrapped),
      );
    } else {
      this.key = bytes(answer.masterKey);
    }
    return "unlocked";
  }

  async setRecovery(secret) {
    const iv = random(12);
    const by = { name: "AES-GCM", iv };
    const wrapped = await crypto.subtle.encrypt(by, await recoveryKey(secret), this.key);
    const body = { recoveryWrappedMk: base64(new Uint8Array(wrapped)), recoveryIv: base64(iv) };
    return request("POST", "/recovery-wrap", body);
  }

  async rotate() {
    this.key = bytes((await request("POST", "/rotate")).masterKey);
  }

  seal = async (text) => {
    const iv = random(12);
    return { iv, sealed: await crypt("encrypt", this.key, iv, new TextEncoder().encode(text)) };
  };

  open = async ({ iv, sealed }) =>
    new TextDecoder().decode(await crypt("decrypt", this.key, iv, sealed));
}

globalThis.app = {
  /** The life of a user's vault; what each step gave. */
  async live() {
    const steps = [];
    const refused = async (method, path, body) => {
      const error = await request(method, path, body).catch((one) => one);
      steps.push(`${error.status} ${error.code}`);
    };
    const [first, second] = [new Device(), new Device()];
    const [old, fresh] = [random(32), random(32)];
    steps.push(await first.unlock());
    const note = await first.seal("what only alice may read");
    steps.push(await first.setRecovery(old));
    steps.push(await request("POST", "/zero-knowledge", { enable: true }));
    steps.push(await request("GET", "/status"));
    steps.push(await second.unlock(), await second.unlock(old), await second.open(note));
    steps.push(await second.setRecovery(fresh));
    steps.push(await first.unlock(fresh), await first.open(note));
    await refused("POST", "/rotate");
    await refused("DELETE", "/recovery-wrap");
    await refused("POST", "/zero-knowledge", { enable: false, masterKey: base64(random(32)) });
    const back = { enable: false, masterKey: base64(first.key) };
    steps.push(await request("POST", "/zero-knowledge", back));
    steps.push(await request("DELETE", "/recovery-wrap"));
    await first.rotate();
    steps.push(await second.unlock());
    steps.push(await second.open(await first.seal("under the new key")));
    return steps;
  },

  /** Rotate; then whether another device has the same key. */
  async rotates() {
    const [first, second] = [new Device(), new Device()];
    await first.unlock();
    await first.rotate();
    await second.unlock();
    return base64(first.key) === base64(second.key);
  },

  status: () => request("GET", "/status").catch((error) => `${error.status} ${error.code}`),
};
