// The microphone: press to record, press again (or wait) to search by what was heard.

import { byId } from "./dom.js";
import { asSound } from "./recording.js";

const LONGEST = 15; // seconds; what the model hears at once
// What browsers do for telephone calls would change the sound.
const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const BITS_PER_SECOND = 256_000;

export class Microphone {
  /** @param {(file: File) => void} done @param {(message: string) => void} failed */
  constructor(done, failed) {
    this.button = byId("microphone");
    this.clock = byId("recorded");
    this.done = done;
    this.failed = failed;
    this.recorder = null;
    this.starting = false;
    this.button.hidden = !navigator.mediaDevices?.getUserMedia; // only on https and on this machine
    this.button.addEventListener("click", () => (this.recorder ? this.stop() : this.start()));
  }

  async start() {
    if (this.starting) return; // a second click, while the browser asks whether it may
    this.starting = true;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS });
    } catch {
      this.failed("The microphone cannot be used; allow it for this page.");
      return;
    } finally {
      this.starting = false;
    }
    const pieces = [];
    const started = performance.now();
    this.recorder = new MediaRecorder(stream, { audioBitsPerSecond: BITS_PER_SECOND });
    this.recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    this.recorder.addEventListener("stop", () => {
      clearInterval(this.timer);
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      this.show(false, "");
      asSound(new Blob(pieces)).then(this.done, () => this.failed("Nothing was recorded; try again."));
    });
    this.recorder.start();
    this.show(true, "0 s");
    this.timer = setInterval(() => {
      const seconds = (performance.now() - started) / 1000;
      this.clock.textContent = `${seconds.toFixed(0)} s`;
      if (seconds >= LONGEST) this.stop();
    }, 200);
  }

  stop() {
    if (this.recorder?.state === "recording") this.recorder.stop();
  }

  show(recording, text) {
    this.button.setAttribute("aria-pressed", String(recording));
    this.button.setAttribute("aria-label", recording ? "Stop recording and search" : "Record with the microphone");
    this.clock.textContent = text;
  }
}
