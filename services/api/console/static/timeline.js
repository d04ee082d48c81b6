// The whole recording on one bar, by the recorder's clock: where there are pictures, where there are none and why, and
// which one is on screen.
"use strict";

(() => {
  const { player, frames, stated } = globalThis.Quancheng;
  const { box, video } = player;
  const bar = document.getElementById("timeline");
  const spans = document.getElementById("timeline-spans");
  const gaps = document.getElementById("timeline-gaps");
  const reach = document.getElementById("timeline-reach");
  const head = document.getElementById("timeline-head");
  const tip = document.getElementById("timeline-tip");
  const begun = document.getElementById("timeline-begun");
  const ended = document.getElementById("timeline-ended");
  const NAMES = JSON.parse(box.dataset.gapNames);
  const AGAIN_MS = 15_000; // how often a running recording is looked at for gaps
  const NEAR = 6; // pixels beside a gap that still mean it
  const NOTICED = 1000;

  let model = null; // {from, to, spans, gaps} in milliseconds
  let away = 0;

  /** Where a moment lies on the bar, in per cent. Whatever else is to stand on it is placed by this. */
  function placed(moment) {
    return (100 * Math.min(Math.max(moment - model.from, 0), length())) / length();
  }

  function length() {
    return Math.max(model.to - model.from, 1);
  }

  function lay(element, from, to) {
    element.style.left = `${placed(from)}%`;
    element.style.width = `${placed(to) - placed(from)}%`;
  }

  function spoken(milliseconds) {
    const whole = Math.floor(milliseconds / 1000);
    if (whole < 10) return `${(Math.floor(milliseconds / 100) / 10).toFixed(1)} 秒`;
    const two = (count) => String(count).padStart(2, "0");
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    if (hours) return `${hours} 小时 ${two(minutes)} 分 ${two(rest)} 秒`;
    return minutes ? `${minutes} 分 ${two(rest)} 秒` : `${rest} 秒`;
  }

  function clock(moment) {
    return stated(moment).slice(-12, -4);
  }

  /** A gap in words: why, how long, when, and which segments are not there. */
  function worded(gap) {
    const missing = gap.first_missing !== null;
    const reasons = gap.kinds.map((kind) => NAMES[kind]);
    if (!reasons.length) reasons.push(missing ? "缺少片段，原因未登记" : "没有画面，原因未登记");
    const said = [`断档：${reasons.join("、")}`, spoken(gap.to - gap.from), `${clock(gap.from)} 至 ${clock(gap.to)}`];
    if (missing) {
      const { first_missing: first, last_missing: last } = gap;
      said.push(first === last ? `缺片段 ${first}` : `缺片段 ${first} 至 ${last}`);
    }
    return said.join("，");
  }

  function timed(one) {
    return { ...one, from: Date.parse(one.from_at), to: Date.parse(one.to_at) };
  }

  /** A single file has one span, once it is known how long it is. */
  function measure() {
    const to = Number.isFinite(video.duration) ? video.duration * 1000 : 0;
    if (!to || model?.to === to) return;
    model = { open: false, from: 0, to, spans: [{ from: 0, to }], gaps: [] };
    draw();
  }

  async function look() {
    const asked = { credentials: "same-origin", headers: { Accept: "application/json" } };
    const answer = await fetch(`/v1/recordings/${box.dataset.recording}/timeline`, asked).catch(() => null);
    if (!answer?.ok) return;
    const told = await answer.json();
    model = {
      open: told.state === "open",
      from: Date.parse(told.from_at),
      to: Date.parse(told.to_at),
      spans: told.spans.map(timed),
      gaps: told.gaps.map(timed),
    };
    draw();
    clearTimeout(away);
    if (model.open) away = setTimeout(again, AGAIN_MS);
  }

  function again() {
    if (document.hidden) away = setTimeout(again, AGAIN_MS);
    else look();
  }

  function draw() {
    spans.replaceChildren(
      ...model.spans.map((span) => {
        const drawn = document.createElement("i");
        lay(drawn, span.from, span.to);
        return drawn;
      }),
    );
    drawGaps();
    tellEnds();
    follow();
  }

  /** The buttons stay where they are while the gaps are the same: one of them may have the focus. */
  function drawGaps() {
    const words = model.gaps.map(worded);
    const old = [...gaps.children];
    if (old.length !== words.length || old.some((button, at) => button.title !== words[at])) {
      const made = words.map((said, at) => {
        const button = document.createElement("button");
        button.type = "button";
        button.title = said;
        button.setAttribute("aria-label", said);
        button.tabIndex = at ? -1 : 0;
        return button;
      });
      gaps.replaceChildren(...made);
    }
    model.gaps.forEach((gap, at) => lay(gaps.children[at], gap.from, gap.to));
  }

  function tellEnds() {
    const day = (moment) => stated(moment).slice(0, -13);
    const other = day(model.from) === day(model.to) ? "" : `${day(model.to).slice(5)} `;
    begun.textContent = clock(model.from);
    ended.textContent = model.open ? `${other}${clock(model.to)} 录制中` : other + clock(model.to);
    bar.setAttribute("aria-valuemax", String(Math.round(length() / 1000)));
  }

  function gapAt(moment, slack = 0) {
    return model.gaps.find((gap) => moment >= gap.from - slack && moment <= gap.to + slack) ?? null;
  }

  function follow() {
    if (!model) return;
    const { date } = player.viewing ? player.placeOf(frames.now()) : { date: null };
    head.hidden = date === null;
    reach.hidden = date === null || !player.live || !video.seekable.length;
    if (date === null) {
      bar.removeAttribute("aria-valuenow");
      bar.setAttribute("aria-valuetext", "尚未播放");
      return;
    }
    head.style.left = `${placed(date)}%`;
    if (!reach.hidden) lay(reach, player.placeOf(video.seekable.start(0)).date, model.to);
    const words = stated(date).slice(0, -4);
    if (bar.getAttribute("aria-valuetext") === words) return;
    bar.setAttribute("aria-valuenow", String(Math.floor(Math.max(date - model.from, 0) / 1000)));
    bar.setAttribute("aria-valuetext", words);
  }

  /** What a live recording gets while it is watched needs no asking. */
  function extend(details) {
    const last = details.fragments.at(-1);
    if (!model?.open || !last || last.programDateTime === null) return;
    const end = last.programDateTime + last.duration * 1000;
    const span = model.spans.at(-1);
    if (!details.live) look();
    else if (span && end > span.to && end - span.to < AGAIN_MS + NOTICED) {
      span.to = end;
      model.to = Math.max(model.to, end);
      draw();
    }
  }

  function go(moment) {
    if (!player.viewing) return player.say("先登记用途，再跳转");
    const gap = gapAt(moment);
    player.seekTo(moment);
    player.say(gap ? `${worded(gap)}。已跳到其后的画面` : undefined);
    follow();
  }

  function pointed(event) {
    const { left, width } = bar.getBoundingClientRect();
    return model.from + (Math.min(Math.max(event.clientX - left, 0), width) / width) * length();
  }

  function showTip(moment, words) {
    tip.textContent = words;
    tip.hidden = false;
    const room = bar.clientWidth - tip.offsetWidth;
    const centre = (placed(moment) / 100) * bar.clientWidth - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(0, Math.min(centre, room))}px`;
  }

  function tipAt(event) {
    if (!model) return;
    const moment = pointed(event);
    const gap = gapAt(moment, (NEAR / bar.clientWidth) * length());
    showTip(moment, gap ? worded(gap) : stated(moment).slice(0, -4));
  }

  function hideTip() {
    tip.hidden = true;
  }

  bar.addEventListener("pointerdown", (event) => {
    if (!model || event.button !== 0) return;
    bar.setPointerCapture(event.pointerId);
    go(pointed(event));
  });
  bar.addEventListener("pointermove", (event) => {
    tipAt(event);
    // While one picture is being fetched no other is asked for; the last place is where it ends.
    if (bar.hasPointerCapture(event.pointerId) && !video.seeking) go(pointed(event));
  });
  bar.addEventListener("pointerup", (event) => {
    if (bar.hasPointerCapture(event.pointerId)) go(pointed(event));
    if (event.pointerType !== "mouse") hideTip();
  });
  bar.addEventListener("pointerleave", hideTip);
  bar.addEventListener("keydown", (event) => {
    const moves = { Home: () => go(model.from), End: () => go(model.to) };
    moves.PageUp = () => player.seekBy(60);
    moves.PageDown = () => player.seekBy(-60);
    if (!model || !player.viewing || !moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });

  gaps.addEventListener("keydown", (event) => {
    const all = [...gaps.children];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (!all[to]) return;
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
  gaps.addEventListener("focusin", (event) => {
    const gap = model.gaps[[...gaps.children].indexOf(event.target)];
    showTip((gap.from + gap.to) / 2, worded(gap));
  });
  gaps.addEventListener("focusout", hideTip);
  gaps.addEventListener("click", (event) => {
    const at = [...gaps.children].indexOf(event.target);
    if (at >= 0) go(model.gaps[at].from);
  });

  box.addEventListener("extended", ({ detail }) => extend(detail));
  for (const told of ["viewing", "frame"]) box.addEventListener(told, follow);
  for (const told of ["seeking", "timeupdate"]) video.addEventListener(told, follow);
  if (player.single) for (const told of ["durationchange", "loadedmetadata"]) video.addEventListener(told, measure);
  else look();
})();
