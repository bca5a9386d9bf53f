// What the programs in JavaScript share: the load, a look at the order, and the one line they print.
//
//   <program> prepare                     makes the tables
//   <program> enqueue --keys … --messages … --callers … --seconds …
//   <program> work --messages … --seconds … --failing …
//   <program> idle                        a worker with nothing to do, until stdin ends
//
// DATABASE_URL says where, BODY is what each message carries. A line of JSON on stdout tells what came of it.

export const mode = process.argv[2];

const given = {};
for (let i = 3; i + 1 < process.argv.length; i += 2) given[process.argv[i].slice(2)] = Number(process.argv[i + 1]);
export const { keys, messages, callers, seconds, failing } = given;

const body = process.env.BODY;

export const tell = (figures) => console.log(JSON.stringify(figures));

/**
 * Callers side by side, each waiting for its message to be there before the next. Each has keys of its own, so
 * that the order within a key is that of the calls. Within a key numbers are 1, 2, 3 …
 */
export async function enqueueAll(add) {
  const taken = [];
  const started = performance.now();
  const late = () => performance.now() - started > seconds * 1000;
  const caller = async (first, step) => {
    for (let n = 1; n <= messages / keys; n += 1) {
      for (let key = first; key < keys && !late(); key += step) {
        const asked = performance.now();
        await add({ key, n, body });
        taken.push(performance.now() - asked);
      }
    }
  };
  const step = Math.min(callers, keys);
  await Promise.all(Array.from({ length: step }, (_, first) => caller(first, step)));
  const took = (performance.now() - started) / 1000;
  taken.sort((a, b) => a - b);
  const at = (share) => taken[Math.min(taken.length - 1, Math.floor(taken.length * share))];
  tell({ messages: taken.length, seconds: took, p50_ms: at(0.5), p99_ms: at(0.99) });
}

/** Counts what is handled, and what starts out of its turn: beside or before an older one of its key. */
export class Handling {
  #next = new Map();
  #busy = new Set();
  #failed = new Set();
  #outOfTurn = 0;
  #ended = 0;
  #started = performance.now();
  #lastEnd = this.#started;
  #finish;
  finished = new Promise((resolve) => (this.#finish = resolve));

  constructor() {
    setTimeout(this.#finish, seconds * 1000).unref();
  }

  /** True when it is done; false when it is one of those that fail at the first try. */
  async handle({ key, n }) {
    const next = this.#next.get(key) ?? 1;
    if (n !== next || this.#busy.has(key)) this.#outOfTurn += 1;
    this.#busy.add(key);
    await null;
    this.#busy.delete(key);
    const name = `${key}-${n}`;
    if (failing && (key + n) % failing === 0 && !this.#failed.has(name)) {
      this.#failed.add(name);
      return false;
    }
    this.#next.set(key, Math.max(next, n + 1));
    this.#ended += 1;
    this.#lastEnd = performance.now();
    if (this.#ended === messages) this.#finish();
    return true;
  }

  tell() {
    const all = this.#ended >= messages;
    const took = all ? (this.#lastEnd - this.#started) / 1000 : seconds;
    tell({ messages: this.#ended, seconds: took, out_of_turn: this.#outOfTurn });
  }
}

export async function untilStdinEnds() {
  tell({ ready: true });
  for await (const _ of process.stdin);
}
