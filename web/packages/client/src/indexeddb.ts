import type { Queue, QueuedMessage } from "./outbox.ts";

const STORE = "unsent";

/** A message, and the page that sends it. */
interface Kept extends QueuedMessage {
  owner: string;
}

export interface IndexedDbQueueOptions {
  /** Whose messages these are: nobody else's page sends them. */
  user: string;
}

/**
 * Keeps unsent messages in IndexedDB: `createChat({ …, queue: indexedDbQueue({ user }) })`. A page that is opened after
 * another was closed sends what that one left, once, with the same ids. Messages are kept as they are, readable to
 * whoever can read the browser's storage for this origin; `clearQueue` forgets them, as when somebody signs out.
 */
export function indexedDbQueue({ user }: IndexedDbQueueOptions): Queue {
  return new IndexedDbQueue(nameOf(user));
}

/** Forgets what a person left unsent. Waits for pages that use it to close their chats. */
export async function clearQueue({ user }: IndexedDbQueueOptions): Promise<void> {
  await result(indexedDB.deleteDatabase(nameOf(user)));
}

class IndexedDbQueue implements Queue {
  readonly #name: string;
  #id = newId();
  #database: Promise<IDBDatabase> | undefined;
  /** The lock that says so is held. */
  #isLiving: Promise<void> | undefined;
  #release = () => {};

  constructor(name: string) {
    this.#name = name;
  }

  load(): Promise<QueuedMessage[]> {
    const { locks } = globalThis.navigator ?? {};
    // One page at a time, so that two don't take the same.
    return locks ? locks.request(`${this.#name} load`, () => this.#adopt()) : this.#adopt();
  }

  async #adopt(): Promise<QueuedMessage[]> {
    const living = await this.#owners();
    return this.#change((store, done) => {
      const left: QueuedMessage[] = [];
      store.openCursor().onsuccess = ({ target }) => {
        // In the order of ids: that in which they were made.
        const cursor = (target as IDBRequest<IDBCursorWithValue | null>).result;
        if (!cursor) return done(left);
        const { owner, ...message } = cursor.value as Kept;
        if (owner !== this.#id && !living.has(owner)) {
          left.push(message);
          cursor.update({ ...message, owner: this.#id } satisfies Kept);
        }
        cursor.continue();
      };
    });
  }

  put(message: QueuedMessage): Promise<void> {
    return this.#change((store, done) => {
      store.put({ ...message, owner: this.#id } satisfies Kept);
      done();
    });
  }

  remove(clientId: string): Promise<void> {
    return this.#change((store, done) => {
      store.delete(clientId);
      done();
    });
  }

  close(): void {
    this.#release();
    void this.#database?.then((database) => database.close()).catch(() => undefined);
    // It may be used again, by the next chat of the same page: as another one, since what this one left is to be sent.
    this.#database = this.#isLiving = undefined;
    this.#id = newId();
  }

  /**
   * The pages that live. Each holds a lock for as long; without Web Locks nobody knows, and a message may be sent by
   * two pages: the server stores it once, by its id.
   */
  async #owners(): Promise<Set<string>> {
    const { locks } = globalThis.navigator ?? {};
    if (!locks) return new Set();
    const prefix = `${this.#name} `;
    await (this.#isLiving ??= this.#live(locks, prefix));
    const { held = [] } = await locks.query();
    return new Set(held.flatMap(({ name }) => (name?.startsWith(prefix) ? name.slice(prefix.length) : [])));
  }

  #live(locks: LockManager, prefix: string): Promise<void> {
    const id = this.#id;
    return new Promise((resolve) => {
      void locks.request(prefix + id, () => {
        resolve();
        // Closed meanwhile.
        if (id !== this.#id) return undefined;
        return new Promise<void>((release) => (this.#release = release));
      });
    });
  }

  /** One transaction. Resolves once it is written. */
  async #change<T>(run: (store: IDBObjectStore, done: (value: T) => void) => void): Promise<T> {
    const transaction = (await (this.#database ??= open(this.#name))).transaction(STORE, "readwrite");
    return new Promise<T>((resolve, reject) => {
      let value: T;
      transaction.oncomplete = () => resolve(value);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
      run(transaction.objectStore(STORE), (it) => (value = it));
    });
  }
}

function newId(): string {
  return crypto.getRandomValues(new Uint32Array(2)).join("-");
}

function nameOf(user: string): string {
  return `partyline ${user}`;
}

async function open(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "message.client_id" });
  const database = await result(request);
  // Whoever deletes it doesn't wait for this page.
  database.onversionchange = () => database.close();
  return database;
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
