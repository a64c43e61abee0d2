// As docs/how-to/browser-client.md shows it, to the letter.
const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
const committed = (change) =>
  new Promise((resolve, reject) => {
    change.oncomplete = resolve;
    change.onabort = () => reject(change.error);
  });

export async function openStore(user) {
  const opening = indexedDB.open(`records of ${user}`);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore("records", { keyPath: "id" });
    opening.result.createObjectStore("seen");
  };
  const database = await result(opening);
  const begin = (mode) =>
    // Strict: on disk when it is complete, not some time later.
    database.transaction(["records", "seen"], mode, { durability: "strict" });
  const generation = async (change) =>
    (await result(change.objectStore("seen").get("generation"))) ?? null;

  const pin = {
    load: () => generation(begin("readonly")),
    async save(seen) {
      const change = begin("readwrite");
      const done = committed(change);
      const before = await generation(change);
      if (before === null || seen > before) change.objectStore("seen").put(seen, "generation");
      await done;
    },
  };
  const all = () => result(begin("readonly").objectStore("records").getAll());

  // False: another tab was first, or the key it is sealed under is on its way out.
  async function put(record) {
    const change = begin("readwrite");
    const done = committed(change);
    const records = change.objectStore("records");
    const there = await result(records.get(record.id));
    const fresh =
      record.generation >= (await generation(change)) &&
      (!there ||
        record.version > there.version ||
        (record.version === there.version && record.generation > there.generation));
    if (fresh) records.put(record);
    await done;
    return fresh;
  }
  return { pin, all, put };
}
