// What was recorded, as the model hears best: one channel at 16 kHz, without the silence around it.

const RATE = 16000;
const FRAME = 320; // samples: 20 ms
const QUIET = 0.05; // of the loudest frame

/** @param {Blob} recorded what a MediaRecorder gave @returns {Promise<File>} a WAV file, named after its length */
export async function asSound(recorded) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const samples = withoutSilence(mixed(await context.decodeAudioData(await recorded.arrayBuffer())));
  return new File([wav(samples)], `recording, ${(samples.length / RATE).toFixed(1)} s`, { type: "audio/wav" });
}

function mixed(buffer) {
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, n) => buffer.getChannelData(n));
  return channels[0].map((_, at) => channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length);
}

function withoutSilence(samples) {
  const loudness = [];
  for (let at = 0; at < samples.length; at += FRAME) {
    const frame = samples.subarray(at, at + FRAME);
    loudness.push(Math.sqrt(frame.reduce((sum, x) => sum + x * x, 0) / frame.length));
  }
  const least = QUIET * Math.max(...loudness);
  const heard = (level) => level > least;
  const first = loudness.findIndex(heard);
  return first < 0 ? samples : samples.subarray(first * FRAME, (loudness.findLastIndex(heard) + 1) * FRAME);
}

function wav(samples) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const put = (at, text) => [...text].forEach((letter, n) => bytes.setUint8(at + n, letter.charCodeAt(0)));
  put(0, "RIFF");
  bytes.setUint32(4, 36 + 2 * samples.length, true);
  put(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true); // PCM
  bytes.setUint16(22, 1, true); // one channel
  bytes.setUint32(24, RATE, true);
  bytes.setUint32(28, 2 * RATE, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  put(36, "data");
  bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, n) => bytes.setInt16(44 + 2 * n, Math.round(32767 * Math.min(1, Math.max(-1, x))), true));
  return bytes;
}
