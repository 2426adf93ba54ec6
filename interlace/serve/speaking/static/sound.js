// Sound in the browser: pieces of 16-bit samples played one after the other, and what a microphone hears as WAV.

export class Player {
  constructor(rate) {
    this.rate = rate;
    this.pieces = [];
    try {
      this.context = new AudioContext({ sampleRate: rate });
      this.next = 0;
    } catch {
      this.context = null; // heard once it is whole
    }
  }

  play(base64) {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const samples = new Int16Array(bytes.buffer);
    this.pieces.push(samples);
    if (!this.context) return;
    const buffer = this.context.createBuffer(1, Math.max(samples.length, 1), this.rate);
    buffer.getChannelData(0).set(Float32Array.from(samples, (value) => value / 32768));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.next = Math.max(this.next, this.context.currentTime);
    source.start(this.next);
    this.next += buffer.duration;
  }

  file() {
    return this.pieces.length ? wav(this.pieces, this.rate) : null;
  }
}

export class Recorder {
  running = false;

  async start() {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    this.recorder = new MediaRecorder(stream);
    this.data = [];
    this.recorder.ondataavailable = (event) => this.data.push(event.data);
    this.recorder.start();
    this.running = true;
  }

  async stop() {
    this.running = false;
    const ended = new Promise((resolve) => { this.recorder.onstop = resolve; });
    this.recorder.stop();
    await ended;
    for (const track of this.recorder.stream.getTracks()) track.stop();
    return wavOf(new File(this.data, "speech.wav", { type: this.recorder.mimeType }));
  }
}

// Any sound that the browser can decode, as a WAV file of one channel at 16 kHz.
export async function wavOf(file) {
  const context = new OfflineAudioContext(1, 1, 16000);
  const decoded = await context.decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) => decoded.getChannelData(index));
  const mixed = Int16Array.from({ length: decoded.length }, (_, at) => {
    const mean = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
    return Math.max(-32768, Math.min(32767, Math.round(mean * 32767)));
  });
  return wav([mixed], 16000, file.name.replace(/\.[^.]*$/, "") + ".wav");
}

function wav(pieces, rate, name = "speech.wav") {
  const length = pieces.reduce((sum, piece) => sum + 2 * piece.length, 0);
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, length, true);
  return new File([view, ...pieces], name, { type: "audio/wav" });
}
