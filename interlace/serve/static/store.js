// The gallery between visits: finished images with their parameters, in this browser's IndexedDB.

const KEPT = 200;

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("interlace", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("images", { keyPath: "id" }).createIndex("at", "at");
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
}).catch(() => null); // private windows may have no storage: the gallery then lasts as long as the page

async function run(mode, work) {
  const database = await opened;
  if (!database) return null;
  return new Promise((resolve) => {
    const transaction = database.transaction("images", mode);
    const request = work(transaction.objectStore("images"));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => resolve(null);
  });
}

/** Oldest first. */
export async function all() {
  const records = (await run("readonly", (images) => images.index("at").getAll())) ?? [];
  const extra = records.length > KEPT ? records.splice(0, records.length - KEPT) : [];
  extra.forEach((record) => remove(record.id));
  return records;
}

export const put = (record) => run("readwrite", (images) => images.put(record));
export const remove = (id) => run("readwrite", (images) => images.delete(id));
