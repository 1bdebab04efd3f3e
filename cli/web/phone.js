// A phone around JsSIP. The page's buttons call its methods, and so do the tests: each returns a promise that
// is kept when what was asked for has happened, and broken when it has not.
"use strict";

const element = (id) => document.getElementById(id);

class Phone {
  constructor() {
    this.registration = "not registered";
    this.call = "no call"; // no call, calling, ringing, talking, held, ended
    this.peer = "";
    this.microphone = true; // the audio constraints of getUserMedia
    this.bundlePolicy = "balanced"; // of RTCPeerConnection
    this.log = [];
    this.session = null;
  }

  // Over a WebSocket of this URL, as sip:USER@DOMAIN.
  register(url, user, domain, password) {
    this.unregister();
    const socket = new JsSIP.WebSocketInterface(url);
    this.domain = domain;
    this.ua = new JsSIP.UA({ sockets: [socket], uri: `sip:${user}@${domain}`, password, register_expires: 600 });
    this.ua.on("newRTCSession", ({ originator, session }) => this.#begin(session, originator));
    this.ua.on("disconnected", () => this.#note("registration", "not connected"));
    this.ua.on("unregistered", () => this.#note("registration", "not registered"));
    return new Promise((kept, broken) => {
      this.ua.on("registered", () => kept(this.#note("registration", `registered as ${user}@${domain}`)));
      this.ua.on("registrationFailed", ({ cause }) => broken(Error(this.#note("registration", `refused: ${cause}`))));
      this.ua.start();
    });
  }

  unregister() {
    this.ua?.stop();
  }

  // Kept when the call is answered.
  async dial(target) {
    if (!this.ua) throw Error("register first");
    const uri = target.includes("@") ? target : `sip:${target}@${this.domain}`;
    return this.#until("confirmed", () => this.ua.call(uri, this.#media()));
  }

  answer() {
    return this.#until("confirmed", () => this.session.answer(this.#media()));
  }

  hold() {
    return this.#changed("held", (done) => this.session.hold({}, done));
  }

  resume() {
    return this.#changed("talking", (done) => this.session.unhold({}, done));
  }

  restartIce() {
    return this.#changed(this.call, (done) => this.session.renegotiate({ rtcOfferConstraints: { iceRestart: true } }, done));
  }

  async mute() {
    this.session.mute({ audio: true });
  }

  async unmute() {
    this.session.unmute({ audio: true });
  }

  hangUp() {
    return new Promise((kept) => {
      this.session.on("ended", kept);
      this.session.on("failed", kept);
      this.session.terminate();
    });
  }

  // What the browser says of the call's media, as a flat record.
  async stats() {
    const found = {};
    const reports = await this.session.connection.getStats();
    reports.forEach((report) => (found[report.type] ??= report));
    const { "inbound-rtp": incoming = {}, "outbound-rtp": outgoing = {}, transport = {} } = found;
    const pair = reports.get(transport.selectedCandidatePairId) ?? {};
    return {
      codec: reports.get(incoming.codecId)?.mimeType,
      received: incoming.packetsReceived,
      lost: incoming.packetsLost,
      jitter: incoming.jitter,
      sent: outgoing.packetsSent,
      roundTrip: pair.currentRoundTripTime,
      remote: `${reports.get(pair.remoteCandidateId)?.address}:${reports.get(pair.remoteCandidateId)?.port}`,
      ice: transport.iceState,
      ufrag: transport.iceLocalUsernameFragment,
      dtls: transport.dtlsState,
      role: transport.dtlsRole,
      tls: transport.tlsVersion,
      cipher: transport.dtlsCipher,
      srtp: transport.srtpCipher,
    };
  }

  // The strongest frequency in what is heard, in Hz, and its level in dB of full scale.
  hears() {
    if (!this.analyser) return { hz: 0, level: -Infinity };
    const bins = new Float32Array(this.analyser.frequencyBinCount);
    this.analyser.getFloatFrequencyData(bins);
    const strongest = bins.indexOf(bins.reduce((a, b) => Math.max(a, b)));
    return { hz: (strongest * this.analyser.context.sampleRate) / this.analyser.fftSize, level: bins[strongest] };
  }

  // -- inside ------------------------------------------------------------------------------------------------

  #media() {
    return { mediaConstraints: { audio: this.microphone, video: false }, pcConfig: { iceServers: [], bundlePolicy: this.bundlePolicy } };
  }

  #begin(session, originator) {
    if (this.session && !this.session.isEnded()) return session.terminate({ status_code: 486 });
    this.session = session;
    this.peer = session.remote_identity.uri.toString();
    this.#note("call", originator === "local" ? "calling" : "ringing");
    session.on("progress", () => this.#note("call", "ringing"));
    session.on("confirmed", () => this.#note("call", "talking"));
    session.on("hold", ({ originator }) => this.#note("call", originator === "local" ? "held" : "held by the peer"));
    session.on("unhold", () => this.#note("call", "talking"));
    for (const end of ["ended", "failed"])
      session.on(end, ({ cause }) => this.#note("call", `ended: ${cause}`));
    for (const what of ["createoffer", "createanswer", "setlocaldescription", "setremotedescription"])
      session.on(`peerconnection:${what}failed`, (error) => this.#write(`${what}: ${error.message ?? error}`));
    session.on("peerconnection", ({ peerconnection }) => this.#listen(peerconnection));
    if (session.connection) this.#listen(session.connection);
  }

  #listen(connection) {
    connection.addEventListener("track", ({ streams: [stream], track }) => {
      const heard = stream ?? new MediaStream([track]);
      element("speaker").srcObject = heard;
      const context = new AudioContext();
      this.analyser = new AnalyserNode(context, { fftSize: 8192, smoothingTimeConstant: 0 });
      context.createMediaStreamSource(heard).connect(this.analyser);
    });
    for (const what of ["iceconnectionstatechange", "connectionstatechange"])
      connection.addEventListener(what, () => this.#write(`ICE ${connection.iceConnectionState}, DTLS ${connection.connectionState}`));
  }

  // Kept at this event of the session that `begin` is about, broken when it ends before.
  #until(event, begin) {
    const session = begin() ?? this.session;
    return new Promise((kept, broken) => {
      session.on(event, () => kept());
      for (const end of ["ended", "failed"]) session.on(end, ({ cause }) => broken(Error(cause)));
    });
  }

  #changed(state, begin) {
    return new Promise((kept, broken) => {
      const begun = begin(() => kept(this.#note("call", state)));
      if (!begun) broken(Error("not now"));
      this.session.on("ended", ({ cause }) => broken(Error(cause)));
    });
  }

  #note(what, state) {
    this[what] = state;
    element(what).value = what === "call" && this.peer ? `${state} (${this.peer})` : state;
    return this.#write(state);
  }

  #write(line) {
    this.log.push(line);
    element("log").textContent = this.log.slice(-12).join("\n");
    return line;
  }
}

const phone = new Phone();

const report = (error) => (element("call").value = error.message);
element("account").addEventListener("submit", (event) => {
  event.preventDefault();
  phone.register(...["server", "user", "domain", "password"].map((id) => element(id).value)).catch(report);
});
element("dial").addEventListener("submit", (event) => {
  event.preventDefault();
  phone.dial(element("target").value).catch(report);
});
for (const name of ["answer", "hold", "resume", "mute", "unmute", "restartIce", "hangUp"])
  element(name).addEventListener("click", () => phone.session && phone[name]().catch(report));

async function show() {
  element("level").value = Math.max(0, 1 + phone.hears().level / 100);
  if (!phone.session?.connection) return;
  const rows = Object.entries(await phone.stats()).filter(([, value]) => value !== undefined);
  element("stats").replaceChildren(
    ...rows.map(([name, value]) => {
      const row = document.createElement("tr");
      row.append(document.createElement("th"), document.createElement("td"));
      [row.cells[0].textContent, row.cells[1].textContent] = [name, value];
      return row;
    }),
  );
}
setInterval(show, 500);

// What the lab says of itself fills the form.
fetch("lab.json")
  .then((answer) => (answer.ok ? answer.json() : {}))
  .then((lab) => Object.entries(lab).forEach(([name, value]) => (element(name).value = value)));
