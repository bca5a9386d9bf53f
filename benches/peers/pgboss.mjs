// pg-boss: one queue with the policy key_strict_fifo, the key as singletonKey.
import { PgBoss } from "pg-boss";
import { Handling, enqueueAll, mode, untilStdinEnds } from "./common.mjs";

const queue = "messages";
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, max: mode === "enqueue" ? 64 : 10, useListenNotify: true });
boss.on("error", (error) => console.error(error));
await boss.start();

if (mode === "prepare") {
  await boss.createQueue(queue, { policy: "key_strict_fifo", notify: true, partition: true, retryLimit: 3, retryDelay: 1 });
} else if (mode === "enqueue") {
  await enqueueAll((message) => boss.send(queue, message, { singletonKey: String(message.key) }));
} else if (mode === "work") {
  // fetch() and complete() in a loop: its work() pauses between two fetches, at least while a key has one job
  // at a time.
  const handling = new Handling();
  let over = false;
  const batchSize = 100;
  const loop = async () => {
    while (!over) {
      const jobs = await boss.fetch(queue, { batchSize });
      if (jobs.length === 0) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        continue;
      }
      const done = [];
      const failed = [];
      for (const job of jobs) ((await handling.handle(job.data)) ? done : failed).push(job.id);
      if (done.length) await boss.complete(queue, done);
      if (failed.length) await boss.fail(queue, failed);
    }
  };
  const loops = Array.from({ length: 4 }, loop);
  await handling.finished;
  handling.tell();
  over = true;
  await Promise.all(loops);
} else if (mode === "idle") {
  await boss.work(queue, async () => {});
  await untilStdinEnds();
}
await boss.stop({ graceful: false });
process.exit(0);
