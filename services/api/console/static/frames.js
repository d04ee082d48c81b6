// Which picture is on screen, exactly as far as the browser tells, and the one before or after it.
"use strict";

(() => {
  const { player } = globalThis.Quancheng;
  const { box, video } = player;
  const TELLS = "requestVideoFrameCallback" in HTMLVideoElement.prototype;
  const USUAL = 0.04; // seconds a picture lasts, until the recording has shown how long
  const SHORTEST = 0.004;
  const LONGEST = 0.5;
  const SETTLED_MS = 500; // a seek that takes longer has to load; the picture comes when it comes
  const TRIES = 40;

  let shown = null; // the time of the media of the picture on screen
  let lasts = USUAL;
  let known = false;
  let stepping = false;
  let waiting = [];

  function presented(_, { mediaTime }) {
    const apart = shown === null ? 0 : mediaTime - shown;
    if (!video.paused && apart > SHORTEST && apart < LONGEST) {
      // The shortest ever seen: pictures are left out while playing fast, and none is to be stepped over.
      lasts = known ? Math.min(lasts, apart) : apart;
      known = true;
    }
    shown = mediaTime;
    for (const done of waiting.splice(0)) done();
    box.dispatchEvent(new Event("frame"));
    video.requestVideoFrameCallback(presented);
  }

  /** The time of the media of the picture on screen. In a tab that nobody sees, none is told. */
  function now() {
    return shown !== null && Math.abs(shown - video.currentTime) < 1 ? shown : video.currentTime;
  }

  /** Resolves when the next picture comes on screen, or when none does for a while. */
  function next() {
    return new Promise((done) => {
      waiting.push(done);
      setTimeout(done, SETTLED_MS);
    });
  }

  async function show(time) {
    const came = TELLS ? next() : new Promise((done) => video.addEventListener("seeked", done, { once: true }));
    video.currentTime = time;
    await came;
  }

  /** One picture on (1) or back (-1), and stand still there. */
  async function step(way) {
    if (!player.viewing || stepping) return;
    stepping = true;
    video.pause();
    try {
      const from = now();
      const end = video.seekable.length ? video.seekable.end(video.seekable.length - 1) : 0;
      // The middle of a neighbour that lasts as long; where this one lasts longer, on from there.
      for (let at = from + (way > 0 ? 1.5 : -0.5) * lasts, tries = 0; tries < TRIES; at += way * lasts, tries += 1) {
        if (at < 0 && from <= 0) break;
        if (at > end) break;
        await show(Math.max(at, 0));
        if (!TELLS || (way > 0 ? now() > from + SHORTEST : now() < from - SHORTEST)) break;
      }
    } finally {
      stepping = false;
    }
  }

  if (TELLS) video.requestVideoFrameCallback(presented);
  else video.addEventListener("timeupdate", () => box.dispatchEvent(new Event("frame")));
  box.addEventListener("viewing", () => {
    shown = null;
    known = false;
    lasts = USUAL;
  });

  globalThis.Quancheng.frames = { now, next, step };
})();
