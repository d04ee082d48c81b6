// The buttons and keys of the player, and the recorder's own time of the picture on screen.
"use strict";

(() => {
  const { player, frames } = globalThis.Quancheng;
  const { box, video } = player;
  const find = (name) => document.getElementById(name);
  const fields = find("controls");
  const speed = find("speed");
  const volume = find("volume");
  const shownAt = find("shown-at");
  const keys = find("keys");
  const HOUR_MS = 3_600_000;
  const LOUDER = 0.1;

  /** `2026-11-25 09:12:03.480`, as clocks in Asia/Shanghai show it: one offset all the year. */
  function shanghai(moment) {
    return new Date(moment + 8 * HOUR_MS).toISOString().slice(0, 23).replace("T", " ");
  }

  /** A moment of the recording in words; of a single file, whose time is counted from its beginning, `00:12:03.480`. */
  function stated(moment) {
    return player.single ? new Date(moment).toISOString().slice(11, 23) : shanghai(moment);
  }

  function tellTime() {
    const { date } = player.viewing ? player.placeOf(frames.now()) : { date: null };
    if (date === null) {
      shownAt.textContent = "—";
      shownAt.removeAttribute("datetime");
      return;
    }
    shownAt.textContent = stated(date);
    shownAt.dateTime = player.single ? `PT${(date / 1000).toFixed(3)}S` : new Date(date).toISOString();
  }

  function name(button, words) {
    button.title = words;
    button.setAttribute("aria-label", words);
  }

  function tellState() {
    box.dataset.paused = String(video.paused);
    name(find("play"), video.paused ? "播放（空格）" : "暂停（空格）");
    box.dataset.muted = String(video.muted || video.volume === 0);
    name(find("mute"), video.muted ? "取消静音（m）" : "静音（m）");
    volume.value = video.muted ? 0 : video.volume;
  }

  function mute() {
    video.muted = !video.muted;
  }

  function louder(by) {
    video.volume = Math.min(1, Math.max(0, video.volume + by));
    video.muted = video.volume === 0;
  }

  function faster(by) {
    const at = speed.selectedIndex + by;
    if (at >= 0 && at < speed.options.length) player.setRate(Number(speed.options[at].value));
  }

  function fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (box.requestFullscreen) box.requestFullscreen().catch(() => player.say("浏览器没有允许全屏"));
    else if (video.webkitEnterFullscreen) video.webkitEnterFullscreen();
  }

  function help() {
    if (keys.open) keys.close();
    else keys.showModal();
  }

  const ACTS = {
    play: player.toggle,
    mute,
    full: fullScreen,
    help,
    "frame-back": () => frames.step(-1),
    "frame-on": () => frames.step(1),
  };
  fields.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.jump) player.seekBy(Number(button.dataset.jump));
    else ACTS[button.id]?.();
  });
  speed.addEventListener("change", () => player.setRate(Number(speed.value)));
  volume.addEventListener("input", () => {
    video.volume = Number(volume.value);
    video.muted = video.volume === 0;
  });
  video.addEventListener("click", player.toggle);
  box.addEventListener("rate", () => (speed.value = String(player.rate)));

  const KEYS = {
    " ": player.toggle,
    ArrowLeft: (event) => player.seekBy(event.shiftKey ? -30 : -5),
    ArrowRight: (event) => player.seekBy(event.shiftKey ? 30 : 5),
    ArrowUp: () => louder(LOUDER),
    ArrowDown: () => louder(-LOUDER),
    ",": () => frames.step(-1),
    ".": () => frames.step(1),
    "[": () => faster(-1),
    "]": () => faster(1),
    f: fullScreen,
    m: mute,
    "?": help,
  };

  /** Whether the player is what a key is meant for: it has the focus, or nothing has. */
  function meant({ target, key, ctrlKey, metaKey, altKey }) {
    if (ctrlKey || metaKey || altKey || document.querySelector("dialog[open]")) return false;
    const inside = box.contains(target);
    if (!inside && target !== document.body && target.id !== "main") return false;
    if (target.closest("input:not([type=range]), select, textarea, #gate")) return false;
    if (target.type === "range" && key.startsWith("Arrow")) return false;
    // A button is pressed by the space bar, and the page is moved by the arrows until the player has the focus.
    if (key === " " && target.closest("button, a, summary")) return false;
    return inside || !["ArrowUp", "ArrowDown"].includes(key);
  }

  document.addEventListener("keydown", (event) => {
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.defaultPrevented || !meant(event) || (!player.viewing && act !== help)) return;
    event.preventDefault();
    act(event);
  });

  for (const told of ["play", "pause", "volumechange", "ended"]) video.addEventListener(told, tellState);
  for (const told of ["frame", "extended"]) box.addEventListener(told, tellTime);
  for (const told of ["seeking", "timeupdate"]) video.addEventListener(told, tellTime);
  box.addEventListener("viewing", ({ detail }) => {
    fields.disabled = detail === null;
    box.dataset.watching = String(detail !== null);
    tellTime();
    tellState();
  });

  Object.assign(globalThis.Quancheng, { shanghai, stated });
})();
