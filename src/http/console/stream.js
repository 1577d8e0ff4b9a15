// The stream of an event's changes. It is read with `fetch`, not `EventSource`, which cannot send a
// header of ours.

import { eventPath, send } from "./api.js";

/** The service sends something at least every 15 seconds. */
const SILENCE_MAX_MS = 40_000;
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 5_000;
/** After a longer interruption, nobody wants to see all changes as if they were happening now. */
const LOST_MAX_MS = 5_000;

/**
 * Follows an event from a version on, and reconnects by itself when the connection is lost.
 *
 * `tell` is called with `live`, with `version` and its changes, with `lost` and the problem (if there
 * is one), and with `gap`: then some versions are skipped, and `from` says where to continue.
 */
export function follow(id, from, tell) {
  const stop = new AbortController();
  run(id, from, tell, stop.signal);
  return () => stop.abort();
}

async function run(id, from, tell, stop) {
  let version = null;
  let wait = RETRY_MIN_MS;
  let lostAt = null;
  while (!stop.aborted) {
    try {
      if (lostAt !== null && performance.now() - lostAt > LOST_MAX_MS) {
        version = null;
        tell("gap");
      }
      version ??= await from(stop);
      await readOne(id, version, stop, (event) => {
        wait = RETRY_MIN_MS;
        lostAt = null;
        if (event.name === "behind") {
          version = null;
          wait = Math.min(event.retry, RETRY_MAX_MS);
          tell("gap");
        } else if (event.data) {
          version = event.data.version;
          tell("version", event.data);
        } else {
          tell("live");
        }
      });
    } catch (failure) {
      if (stop.aborted) return;
      // The event has not reached this version: it is no longer the event that was followed.
      if (failure.body?.status === 400) version = null;
      lostAt ??= performance.now();
      tell("lost", failure.body);
    }
    await new Promise((resume) => setTimeout(resume, wait));
    wait = Math.min(wait * 2, RETRY_MAX_MS);
  }
}

/** Reads one answer until it ends; throws, unless it ends with `behind`. */
async function readOne(id, version, stop, take) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MAX_MS);
  };
  const signal = AbortSignal.any([stop, silence.signal]);
  try {
    heard();
    const response = await send("GET", `${eventPath(id)}/stream?after=${version}`, { signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the stream has ended");
      heard();
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        take(event);
        if (event.name === "behind") return;
      }
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

function parse(block) {
  const event = {};
  for (const line of block.split("\n")) {
    if (line.startsWith("data: ")) event.data = JSON.parse(line.slice(6));
    else if (line.startsWith("event: ")) event.name = line.slice(7);
    else if (line.startsWith("retry: ")) event.retry = Number(line.slice(7));
  }
  return event;
}
