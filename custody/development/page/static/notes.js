// Where notes are kept: IndexedDB, which stands for an app's own server. It has ciphertext only.
//
// As such a server should, it takes no note under a key that is being given up: a device that has
// not yet heard of the rotation would write what nobody can read afterwards.

/** The note is under an older key than the notes of this user now are. */
export class OldKey extends Error {}

const opened = new Promise((resolve, reject) => {
  const opening = indexedDB.open("custody-first-page", 1);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore("notes", { keyPath: ["user", "id"] });
    opening.result.createObjectStore("oldest", { keyPath: "user" });
  };
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(opening.error);
});

/** Return a user's notes, the newest first. */
export async function all(user) {
  const found = await asked((notes) => notes.getAll(of(user)));
  return found.sort((one, other) => other.at - one.at);
}

/** Return the notes of all others. */
export async function ofOthers(user) {
  return (await asked((notes) => notes.getAll())).filter((note) => note.user !== user);
}

/** Keep notes, new ones or anew; they are on disk when this ends. */
export async function put(some) {
  return written((notes, oldest, refuse) => {
    for (const note of some) {
      oldest.get(note.user).onsuccess = ({ target }) => {
        if (note.generation < (target.result?.generation ?? 0)) refuse(new OldKey());
        else notes.put(note);
      };
    }
  });
}

/** From now on take no note of this user under a key before this generation. */
export async function refuseBefore(user, generation) {
  return written((_notes, oldest) => oldest.put({ user, generation }));
}

/** Forget a user's notes. */
export async function forget(user) {
  return written((notes) => notes.delete(of(user)));
}

const of = (user) => IDBKeyRange.bound([user], [user, []]);

async function asked(ask) {
  const database = await opened;
  return new Promise((resolve, reject) => {
    const asking = ask(database.transaction("notes").objectStore("notes"));
    asking.onsuccess = () => resolve(asking.result);
    asking.onerror = () => reject(asking.error);
  });
}

async function written(write) {
  const database = await opened;
  const stores = ["notes", "oldest"];
  const transaction = database.transaction(stores, "readwrite", { durability: "strict" });
  return new Promise((resolve, reject) => {
    let refusal = null;
    const refuse = (error) => {
      refusal = error;
      transaction.abort();
    };
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(refusal ?? transaction.error);
    write(...stores.map((name) => transaction.objectStore(name)), refuse);
  });
}
