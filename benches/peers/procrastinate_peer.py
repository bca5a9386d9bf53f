"""procrastinate: the key as lock. Modes, options and output as in common.mjs."""

import asyncio
import json
import logging
import os
import sys
import time

import procrastinate

MODE = sys.argv[1]
OPTIONS = {name[2:]: float(value) for name, value in zip(sys.argv[2::2], sys.argv[3::2])}
BODY = os.environ.get("BODY", "")
# Its own default is 1; each job takes a connection for a moment.
CONCURRENCY = 16
POLLING = 0.02

# Tasks that fail on purpose need no traceback each.
logging.getLogger("procrastinate").setLevel(logging.CRITICAL)

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["DATABASE_URL"], min_size=4, max_size=64 if MODE == "enqueue" else CONCURRENCY + 4
    )
)


def tell(**figures):
    print(json.dumps(figures), flush=True)


class Handling:
    """Counts what is handled, and what starts out of its turn: beside or before an older one of its key."""

    def __init__(self):
        self.next, self.busy, self.failed = {}, set(), set()
        self.out_of_turn = self.ended = 0
        self.started = self.last_end = time.monotonic()
        self.finished = asyncio.Event()

    async def handle(self, key, n):
        next_ = self.next.get(key, 1)
        if n != next_ or key in self.busy:
            self.out_of_turn += 1
        self.busy.add(key)
        await asyncio.sleep(0)
        self.busy.discard(key)
        failing = OPTIONS.get("failing", 0)
        if failing and (key + n) % failing == 0 and (key, n) not in self.failed:
            self.failed.add((key, n))
            raise RuntimeError("fails once")
        self.next[key] = max(next_, n + 1)
        self.ended += 1
        self.last_end = time.monotonic()
        if self.ended == OPTIONS["messages"]:
            self.finished.set()

    def tell(self):
        complete = self.ended >= OPTIONS["messages"]
        took = self.last_end - self.started if complete else OPTIONS["seconds"]
        tell(messages=self.ended, seconds=took, out_of_turn=self.out_of_turn)


handling = None


@app.task(name="task", retry=procrastinate.RetryStrategy(max_attempts=3, wait=1))
async def task(key, n, body):
    await handling.handle(key, n)


async def enqueue():
    keys, messages, seconds = int(OPTIONS["keys"]), int(OPTIONS["messages"]), OPTIONS["seconds"]
    taken = []
    started = time.monotonic()
    step = min(int(OPTIONS["callers"]), keys)

    # Each has keys of its own, so that the order within a key is that of the calls.
    async def caller(first):
        for n in range(1, messages // keys + 1):
            for key in range(first, keys, step):
                asked = time.monotonic()
                if asked - started > seconds:
                    return
                await task.configure(lock=f"key-{key}").defer_async(key=key, n=n, body=BODY)
                taken.append(time.monotonic() - asked)

    await asyncio.gather(*(caller(first) for first in range(step)))
    took = time.monotonic() - started
    taken.sort()
    at = lambda share: 1000 * taken[min(len(taken) - 1, int(len(taken) * share))]  # noqa: E731
    tell(messages=len(taken), seconds=took, p50_ms=at(0.5), p99_ms=at(0.99))


async def work():
    global handling
    handling = Handling()
    # 5 s by default: a job whose lock was held waits so long.
    worker = asyncio.create_task(
        app.run_worker_async(
            concurrency=CONCURRENCY, install_signal_handlers=False, fetch_job_polling_interval=POLLING
        )
    )
    finished = asyncio.create_task(handling.finished.wait())
    await asyncio.wait([worker, finished], timeout=OPTIONS["seconds"], return_when=asyncio.FIRST_COMPLETED)
    handling.tell()
    os._exit(0)


async def idle():
    worker = asyncio.create_task(app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False))
    tell(ready=True)
    await asyncio.to_thread(sys.stdin.read)
    worker.cancel()
    os._exit(0)


async def main():
    async with app.open_async():
        if MODE == "prepare":
            await app.schema_manager.apply_schema_async()
        else:
            await {"enqueue": enqueue, "work": work, "idle": idle}[MODE]()


asyncio.run(main())
