// The player of one recording: the purpose is logged first, then the sealed segments, or the sealed file, play as they
// are. Where the browser cannot play them, a rendition does, and the page says so.
//
// `Quancheng.player` is what the controls, the timeline and the snapshot work with. #player tells them by events:
// `viewing` (its detail is the viewing, or null once it is over), `extended` (the playlist was read), `rate`.
//
// `data-behind` on #player is the distance in seconds between the picture and now while a recording is
// live; it is taken from the playlist's EXT-X-PROGRAM-DATE-TIME, which is the recorder's own clock.
"use strict";

(() => {
  const { post, purpose, saidIn, show, UNREACHABLE } = globalThis.Quancheng;

  // Seconds, not a count of segments: segments get shorter while somebody watches, and the playlist's
  // TARGETDURATION stays at the longest.
  const LIVE = {
    lowLatencyMode: true,
    liveSyncDuration: 1.2,
    liveSyncOnStallIncrease: 0.5,
    maxLiveSyncPlaybackRate: 1.5,
    liveDurationInfinity: true,
    backBufferLength: 60,
  };
  const RETRY = {
    maxNumRetry: 60,
    retryDelayMs: 500,
    maxRetryDelayMs: 2000,
    // hls.js gives up at once when nothing answers at all; a service that is restarting is back in seconds.
    shouldRetry: (policy, tried, _timedOut, answer) =>
      tried < policy.maxNumRetry && !(answer && refused(answer.code)),
  };
  const REPAIRS = 3; // times a decoder is started afresh before the recording counts as unplayable here
  const CALM = 15_000; // milliseconds without a stall after which the distance may shrink again
  const FOLLOWED = 0.5; // seconds before the live point that still mean it
  const CLOCK_SLACK = -0.5; // seconds; further ahead than this the two clocks disagree
  const EDGE = 0.002; // seconds by which times of the media are rounded
  const LAST_PICTURE = 0.05; // seconds before the end where there still is one
  const SLOWEST = 90_000; // milliseconds that a piece of a rendition may take to be made
  const UNKNOWN = new Set(["bufferAddCodecError", "bufferIncompatibleCodecsError", "manifestIncompatibleCodecsError"]);
  const TOLD = {
    sealed: "播放的是封存的原始片段，未经转码",
    file: "播放的是封存的原始文件，未经转码",
    rendition: "", // said all the time, in a place of its own
  };
  const RETRYING = "连接中断，正在重试";
  const NOTICED = 1000; // milliseconds from which a pause in the recording counts as one

  const box = document.getElementById("player");
  const video = document.getElementById("video");
  const gate = document.getElementById("gate");
  const gateWords = document.getElementById("gate-words");
  const gateError = document.getElementById("gate-error");
  const behind = document.getElementById("behind");
  const words = document.getElementById("player-words");
  const toLive = document.getElementById("to-live");
  const rendered = document.getElementById("rendered");
  const single = "format" in box.dataset; // a single file, whose time is counted from its beginning

  let viewing = null;
  let ways = []; // of playing it, each tried where the one before cannot
  let way = null;
  let hls = null;
  let rate = 1; // what the viewer chose; while following a live recording the speed varies about it
  let live = false;
  let following = true; // false once the viewer has gone back or paused
  let rest = ""; // what the status line says while all is well
  let repairs = 0;
  let stalledAt = 0;
  let lapse = 0;
  let clock = 0;

  gate.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = gate.querySelector("button");
    show(gateError, "");
    button.disabled = true;
    try {
      begin(await post(`/v1/recordings/${box.dataset.recording}/viewings`, purpose(gate)));
    } catch (refusal) {
      show(gateError, refusal.message);
    } finally {
      button.disabled = false;
    }
  });

  function tell(name, detail) {
    box.dispatchEvent(new CustomEvent(name, { detail }));
  }

  function begin(registered) {
    viewing = registered;
    gate.hidden = true;
    video.hidden = false;
    ways = [];
    if (viewing.playlist) ways.push({ kind: "sealed", url: viewing.playlist });
    if (viewing.file && box.dataset.plays === "natively") ways.push({ kind: "file", url: viewing.file });
    if (viewing.rendition) ways.push({ kind: "rendition", url: viewing.rendition });
    const left = Date.parse(viewing.until) - Date.now();
    lapse = setTimeout(() => stop("本次观看的时限已到。继续观看请重新登记用途。"), Math.max(left, 0));
    clock = setInterval(measure, 250);
    setRate(1);
    tell("viewing", viewing);
    video.focus();
    goOn();
  }

  /** Play it the next way, once the one before turned out not to be this browser's. */
  function goOn() {
    release();
    way = ways.shift();
    if (!way) return stop("此浏览器不能解码本记录，请下载原始文件。");
    live = false;
    following = true;
    rest = "";
    repairs = 0;
    rendered.hidden = way.kind !== "rendition";
    box.dataset.way = way.kind;
    words.textContent = way.kind === "rendition" ? "正在转码" : "正在载入";
    if (way.kind === "file") natively(way.url);
    else if (globalThis.Hls && Hls.isSupported()) withHls(way.url);
    else if (video.canPlayType("application/vnd.apple.mpegurl")) natively(way.url);
    else stop("此浏览器不能播放本记录，请使用新版 Chrome、Edge、Firefox 或 Safari。");
  }

  function release() {
    if (hls) hls.destroy();
    hls = null;
    video.pause();
    video.removeAttribute("src");
    video.load();
  }

  function withHls(playlist) {
    const slow = way.kind === "rendition" ? { maxTimeToFirstByteMs: SLOWEST, maxLoadTimeMs: SLOWEST } : {};
    const patient = (policy) => ({ default: { ...policy.default, ...slow, timeoutRetry: RETRY, errorRetry: RETRY } });
    hls = new Hls({
      ...LIVE,
      playlistLoadPolicy: patient(Hls.DefaultConfig.playlistLoadPolicy),
      fragLoadPolicy: patient(Hls.DefaultConfig.fragLoadPolicy),
    });
    hls.on(Hls.Events.LEVEL_UPDATED, (_, { details }) => {
      setLive(details.live);
      tell("extended", details);
    });
    hls.on(Hls.Events.FRAG_LOADED, () => {
      if (words.textContent === RETRYING) say();
    });
    hls.on(Hls.Events.ERROR, (_, data) => failed(data));
    hls.on(Hls.Events.MEDIA_ATTACHED, () => hls.loadSource(playlist));
    hls.on(Hls.Events.MANIFEST_PARSED, play);
    hls.attachMedia(video);
  }

  function natively(url) {
    video.src = url;
    play();
  }

  video.addEventListener("loadedmetadata", () => {
    // Where it knows the sound and not the pictures, a browser plays the sound alone.
    if (way?.kind === "file" && box.dataset.viewer === "film" && !video.videoWidth) goOn();
    else if (!hls) setLive(video.duration === Infinity);
  });
  video.addEventListener("durationchange", () => {
    if (!hls && way) setLive(video.duration === Infinity);
  });
  video.addEventListener("error", () => {
    if (hls || !way || !video.error) return;
    if (video.error.code === MediaError.MEDIA_ERR_NETWORK) stop(UNREACHABLE);
    else goOn();
  });

  function play() {
    video.play().catch(() => {
      // The answer took longer than the browser lets a click count for: the viewer presses play.
      words.textContent = "请按播放键";
    });
  }

  function setLive(now) {
    if (live && !now) {
      words.textContent = rest = "录制已结束，正在播放到末尾";
      setRate(rate);
    }
    live = now;
    box.dataset.live = String(live);
    measure();
  }

  function failed(data) {
    if (data.details === Hls.ErrorDetails.INTERNAL_ABORTED) return; // the viewer went elsewhere meanwhile
    // A no (lapsed, withdrawn, signed out) stays a no, however often it is asked.
    if (data.response && refused(data.response.code)) {
      stop(saidIn(data.networkDetails) || "服务器拒绝了本次观看。请重新登记用途。");
    } else if (UNKNOWN.has(data.details)) {
      goOn();
    } else if (data.fatal && data.type === Hls.ErrorTypes.MEDIA_ERROR) {
      if (repairs++ < REPAIRS) hls.recoverMediaError();
      else goOn();
    } else if (data.fatal) {
      stop(saidIn(data.networkDetails) || UNREACHABLE);
    } else if (data.type === Hls.ErrorTypes.NETWORK_ERROR) {
      words.textContent = RETRYING;
    } else if (data.details === Hls.ErrorDetails.BUFFER_STALLED_ERROR) {
      stalledAt = Date.now();
      words.textContent = live ? "正在等待新的片段" : "正在缓冲";
    }
  }

  function refused(status) {
    return (status >= 400 && status < 500 && status !== 408 && status !== 429) || status === 501;
  }

  /** End this viewing and offer to log a new one. */
  function stop(reason) {
    clearTimeout(lapse);
    clearInterval(clock);
    way = null;
    release();
    live = false;
    viewing = null;
    rendered.hidden = true;
    video.hidden = true;
    gate.hidden = false;
    gateWords.textContent = reason;
    words.textContent = rest = "";
    measure();
    tell("viewing", null);
    gate.elements.purpose.focus();
  }

  /** Where the picture at this time of the media lies: the recorder's own clock (ms), and in which segment. Of a
   *  single file the moment is counted from its beginning. */
  function placeOf(time) {
    if (single) return { date: time * 1000, sequence: null, sha256: null, offset: time };
    const list = fragments();
    if (list.length) {
      let low = 0;
      for (let high = list.length - 1; low < high; ) {
        const middle = Math.ceil((low + high) / 2);
        if (list[middle].start <= time + EDGE) low = middle;
        else high = middle - 1;
      }
      const found = list[low];
      const named = /(\d+)-([0-9a-f]{64})\./.exec(found.relurl);
      const offset = Math.max(0, time - found.start);
      const date = found.programDateTime === null ? null : found.programDateTime + offset * 1000;
      return { date, sequence: Number(named[1]), sha256: named[2], offset };
    }
    const began = video.getStartDate ? video.getStartDate().getTime() : NaN;
    return { date: Number.isFinite(began) ? began + time * 1000 : null, sequence: null, sha256: null, offset: null };
  }

  function fragments() {
    return hls?.latestLevelDetails?.fragments ?? [];
  }

  /** Show what the recorder saw at this moment (ms), or where there is nothing, the next that it saw. False then. */
  function seekTo(moment) {
    if (!viewing) return true;
    if (single) {
      seek(Math.min(moment / 1000, Math.max(0, video.duration - LAST_PICTURE)));
      return true;
    }
    let next = null;
    let last = null;
    for (const one of fragments()) {
      const began = one.programDateTime;
      last = one;
      if (moment >= began && moment < began + one.duration * 1000) {
        seek(one.start + (moment - began) / 1000);
        return true;
      }
      if (began >= moment && (!next || began < next.programDateTime)) next = one;
    }
    if (next) seek(next.start + EDGE);
    else if (last) seek(last.start + last.duration - LAST_PICTURE);
    else if (video.getStartDate) seek((moment - video.getStartDate().getTime()) / 1000);
    return !last || (next !== null && next.programDateTime - moment < NOTICED);
  }

  function seekBy(seconds) {
    const { seekable } = video;
    if (!viewing || !seekable.length) return;
    const end = seekable.end(seekable.length - 1) - (live ? 0 : LAST_PICTURE);
    seek(Math.min(Math.max(video.currentTime + seconds, seekable.start(0)), end));
  }

  /** In a live recording whoever goes back stays there, and whoever goes to the end follows it again. */
  function seek(time) {
    following = live && time >= edge() - FOLLOWED;
    video.currentTime = following ? edge() : time;
  }

  function toggle() {
    if (!viewing) return;
    if (video.paused) play();
    else video.pause();
  }

  /** While following a live recording there is nothing to speed up to; slower means to stay behind. */
  function setRate(chosen) {
    rate = chosen;
    if (live && rate < 1) following = false;
    if (hls) hls.config.maxLiveSyncPlaybackRate = rate === 1 ? LIVE.maxLiveSyncPlaybackRate : 1;
    video.defaultPlaybackRate = video.playbackRate = rate;
    tell("rate", rate);
  }

  function say(told = rest) {
    words.textContent = told;
  }

  function measure() {
    const date = live ? placeOf(video.currentTime).date : null;
    toLive.hidden = !live || following;
    if (live && rate > 1 && edge() - video.currentTime < 1) goLive();
    if (!date) {
      delete box.dataset.behind;
      behind.textContent = "";
      return;
    }
    const seconds = (Date.now() - date) / 1000;
    box.dataset.behind = seconds.toFixed(2);
    behind.textContent = seconds < CLOCK_SLACK
      ? "记录仪时钟快于本机，无法计算距现场时间"
      : `距现场 ${Math.max(seconds, 0).toFixed(1)} 秒`;
    if (following && hls) keepUp();
  }

  /** What hls.js leaves open: it speeds up only over a short distance, and a stall keeps it back for good. */
  function keepUp() {
    const details = hls.latestLevelDetails;
    if (!details || video.paused || video.seeking) return;
    if (hls.targetLatency > LIVE.liveSyncDuration && Date.now() - stalledAt > CALM) {
      hls.targetLatency = LIVE.liveSyncDuration;
    }
    const tooFar = hls.latency - hls.targetLatency >= hls.targetLatency + details.targetduration;
    // Only ever forward: while nothing arrives, the live point itself falls behind the picture.
    if (tooFar && edge() > video.currentTime + 1) goLive();
  }

  function edge() {
    if (hls) return hls.liveSyncPosition ?? video.currentTime;
    return video.seekable.length ? video.seekable.end(video.seekable.length - 1) : video.currentTime;
  }

  function goLive() {
    following = true;
    setRate(1);
    video.currentTime = edge();
    play();
  }

  toLive.addEventListener("click", goLive);
  video.addEventListener("pause", () => {
    if (live && !video.ended) following = false;
  });
  video.addEventListener("playing", () => {
    if (!rest && way) rest = TOLD[way.kind];
    words.textContent = rest;
  });
  video.addEventListener("ended", () => {
    box.dataset.state = "closed";
    rest = "";
    words.textContent = "已封存，播放完毕";
  });

  globalThis.Quancheng.player = {
    box,
    video,
    placeOf,
    seekTo,
    seekBy,
    toggle,
    setRate,
    say,
    single,
    get viewing() {
      return viewing;
    },
    get rendered() {
      return way?.kind === "rendition";
    },
    get live() {
      return live;
    },
    get rate() {
      return rate;
    },
  };
})();
