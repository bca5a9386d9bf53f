// graphile-worker: a named queue for each key.
import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";
import { Handling, enqueueAll, keys, mode, untilStdinEnds } from "./common.mjs";

const logger = new Logger(() => (level, text) => level === "error" && !/Failed task/.test(text) && console.error(text));
// Without the local queue that its page on performance advises: with it, 100 named queues ran 50 jobs a second,
// without it 150, for a queue is locked until its job's completion is written. Completing in batches (0 ms) made
// no clear difference (168 and 145 a second).
const preset = {
  worker: {
    connectionString: process.env.DATABASE_URL,
    concurrentJobs: Math.min(24, keys ?? 24),
    maxPoolSize: 26,
    // 2,000 by default. It looks for the next job before the completion of the last one is written, finds its
    // queue locked, and waits so long.
    ...(mode === "work" && { pollInterval: keys === 1 ? 5 : 100 }),
    logger,
  },
};

const work = (handler) =>
  run({
    preset,
    noHandleSignals: true,
    taskList: { task: handler },
  });

if (mode === "prepare") {
  await runMigrations({ preset });
} else if (mode === "enqueue") {
  const utils = await makeWorkerUtils({ connectionString: process.env.DATABASE_URL, maxPoolSize: 64, logger });
  await enqueueAll((message) => utils.addJob("task", message, { queueName: `key-${message.key}` }));
  await utils.release();
} else if (mode === "work") {
  const handling = new Handling();
  const runner = await work(async (payload) => {
    if (!(await handling.handle(payload))) throw new Error("fails once");
  });
  await handling.finished;
  handling.tell();
  // Time given back is not time measured.
  setTimeout(() => process.exit(0), 5_000).unref();
  await runner.stop();
  process.exit(0);
} else if (mode === "idle") {
  const runner = await work(async () => {});
  await untilStdinEnds();
  await runner.stop();
  process.exit(0);
}
