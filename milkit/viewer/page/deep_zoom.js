// A slide on a canvas. At zoom z a pixel is 2**z pixels of level 0 wide; squares come from the server as they are needed,
// and coarser ones are shown until finer ones have arrived. All places are in pixels of level 0.

const LOADING = 6;       // squares asked for at once
const KEPT = 500;        // squares in memory, 256 KB each
const LARGEST = 16;      // screen pixels for one of the slide
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class DeepZoom {
  constructor(canvas, overview, tell) {
    this.canvas = canvas;
    this.overview = overview;
    this.tell = tell;          // {moved(place), failed(message)}
    this.slide = null;
    this.squares = new Map();  // "z/c/r" -> bitmap, or null while loading or where it failed
    this.loading = 0;
    this.drawn = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  /** Show a slide {url, width, height, side, zoom} from its whole on. */
  open(slide) {
    for (const bitmap of this.squares.values()) bitmap?.close();
    this.squares.clear();
    this.slide = slide;
    this.goal = null;
    this.failed = false;
    if (slide) this.fit();
    else this.paint();
  }

  /** Screen pixels (as the style sheet counts) for a pixel of the slide when all of it is seen. */
  get whole() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return Math.min(Math.max(w, 1) / this.slide.width, Math.max(h, 1) / this.slide.height) * 0.96;
  }

  fit() { this.go(this.slide.width / 2, this.slide.height / 2, this.whole); }

  /** Centre a place of the slide, at a scale. */
  go(x, y, scale = this.scale) {
    this.goal = null;
    this.scale = Math.min(Math.max(scale, this.whole / 2), LARGEST);
    this.x = Math.min(Math.max(x, 0), this.slide.width);
    this.y = Math.min(Math.max(y, 0), this.slide.height);
    this.paint();
  }

  /** Zoom by a factor; what is under (left, top) of the canvas stays there. */
  zoom(factor, left = this.canvas.clientWidth / 2, top = this.canvas.clientHeight / 2) {
    if (!this.slide) return;
    const scale = Math.min(Math.max((this.goal?.scale ?? this.scale) * factor, this.whole / 2), LARGEST);
    this.goal = { scale, left, top, ...this.place(left, top) };
    this.paint();
  }

  /** The place of the slide that is at (left, top) of the canvas. */
  place(left, top) {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return { x: this.x + (left - w / 2) / this.scale, y: this.y + (top - h / 2) / this.scale };
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    const was = this.slide && this.scale <= this.whole * 1.001;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (was) this.fit();
    else this.paint();
  }

  /** Draw before the next frame. */
  paint() {
    if (this.drawn) return;
    this.drawn = true;
    requestAnimationFrame(() => { this.drawn = false; this.step(); this.draw(); });
  }

  /** Come nearer to the goal of a zoom. */
  step() {
    const goal = this.goal;
    if (!goal) return;
    const left = Math.log(goal.scale / this.scale);
    this.scale = calm.matches || Math.abs(left) < 0.005 ? goal.scale : this.scale * Math.exp(left * 0.3);
    this.x = goal.x - (goal.left - this.canvas.clientWidth / 2) / this.scale;
    this.y = goal.y - (goal.top - this.canvas.clientHeight / 2) / this.scale;
    if (this.scale === goal.scale) this.goal = null;
    else this.paint();
  }

  draw() {
    const { canvas, slide } = this;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!slide) return this.tell.moved(null);
    const s = this.scale * (devicePixelRatio || 1);  // device pixels for a pixel of the slide
    const at = { s, left: Math.round(this.x * s - canvas.width / 2), top: Math.round(this.y * s - canvas.height / 2) };
    pen.save();
    pen.beginPath();
    pen.rect(-at.left, -at.top, Math.round(slide.width * s), Math.round(slide.height * s));
    pen.clip();
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = s < 4;  // beyond, pixels are shown as they are
    pen.imageSmoothingQuality = "high";
    const zoom = Math.min(Math.max(Math.floor(-Math.log2(s) + 1e-6), 0), slide.zoom);
    for (let z = slide.zoom; z >= zoom; z--) {
      for (const square of this.seen(z, at)) this.drawSquare(pen, at, ...square);
    }
    pen.restore();
    this.load(zoom, at);
    this.drawOverview();
    Object.assign(canvas.dataset, { x: this.x, y: this.y, scale: this.scale, zoom });
    this.tell.moved({ ...at, mpp: slide.mpp, scale: this.scale });
  }

  /** (z, column, row) of the squares that are seen, from the middle outwards. */
  seen(z, at) {
    const { canvas, slide } = this;
    const step = slide.side * 2 ** z;
    const range = (start, pixels, size) => [
      Math.max(0, Math.floor(start / at.s / step)),
      Math.min(Math.ceil(size / step), Math.ceil((start + pixels) / at.s / step)),
    ];
    const [c0, c1] = range(at.left, canvas.width, slide.width);
    const [r0, r1] = range(at.top, canvas.height, slide.height);
    const out = [];
    for (let r = r0; r < r1; r++) for (let c = c0; c < c1; c++) out.push([z, c, r]);
    const far = ([, c, r]) => Math.hypot((c + 0.5) * step - this.x, (r + 0.5) * step - this.y);
    return out.sort((a, b) => far(a) - far(b));
  }

  drawSquare(pen, at, z, c, r) {
    const bitmap = this.squares.get(`${z}/${c}/${r}`);
    if (!bitmap) return;
    const step = this.slide.side * 2 ** z;
    const x = Math.round(c * step * at.s) - at.left, y = Math.round(r * step * at.s) - at.top;
    const right = Math.round((c * step + bitmap.width * 2 ** z) * at.s) - at.left;
    const bottom = Math.round((r * step + bitmap.height * 2 ** z) * at.s) - at.top;
    pen.drawImage(bitmap, x, y, right - x, bottom - y);
  }

  /** Ask for what is seen and not there; the whole slide's one square first, as it stands in for all others. */
  load(zoom, at) {
    const wanted = [[this.slide.zoom, 0, 0], ...this.seen(zoom, at)].map((square) => square.join("/"));
    for (const name of wanted) {
      if (this.squares.has(name)) {  // those of now are the last to be thrown away
        const bitmap = this.squares.get(name);
        this.squares.delete(name);
        this.squares.set(name, bitmap);
      } else if (this.loading < LOADING) this.fetch(name);
    }
    for (const [name, bitmap] of this.squares) {
      if (this.squares.size <= Math.max(KEPT, 2 * wanted.length)) break;
      if (bitmap) { bitmap.close(); this.squares.delete(name); }
    }
    this.canvas.dataset.complete = wanted.every((name) => this.squares.get(name));
  }

  async fetch(name) {
    const slide = this.slide;
    this.squares.set(name, null);
    this.loading++;
    try {
      const answer = await fetch(`${slide.url}/square/${name}`);
      if (!answer.ok) throw new Error((await answer.json()).error);
      const bitmap = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
      if (slide === this.slide) this.squares.set(name, bitmap);
    } catch (error) {
      if (slide === this.slide && !this.failed) this.tell.failed(error.message);
      this.failed = slide === this.slide || this.failed;
    }
    this.loading--;
    this.paint();
  }

  drawOverview() {
    const { overview, slide, canvas } = this;
    const most = Math.min(170, canvas.clientWidth / 4);
    const small = most / Math.max(slide.width, slide.height);
    overview.width = Math.max(8, Math.round(slide.width * small));
    overview.height = Math.max(8, Math.round(slide.height * small));
    const pen = overview.getContext("2d");
    const bitmap = this.squares.get(`${slide.zoom}/0/0`);
    if (bitmap) {
      const whole = 2 ** slide.zoom * small;
      pen.imageSmoothingQuality = "high";
      pen.drawImage(bitmap, 0, 0, bitmap.width * whole, bitmap.height * whole);
    }
    const w = canvas.clientWidth / this.scale * small, h = canvas.clientHeight / this.scale * small;
    const x = this.x * small - w / 2, y = this.y * small - h / 2;
    pen.strokeStyle = "#fff";
    pen.lineWidth = 4;
    pen.strokeRect(x, y, w, h);
    pen.strokeStyle = "#c4003a";
    pen.lineWidth = 2;
    pen.strokeRect(x, y, w, h);
  }

  listen() {
    const { canvas, overview } = this;
    let from = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 20 : 1;  // some browsers count lines
      this.zoom(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.002), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || !this.slide) return;
      canvas.setPointerCapture(event.pointerId);
      from = { left: event.offsetX, top: event.offsetY, x: this.x, y: this.y };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (from) this.go(from.x - (event.offsetX - from.left) / this.scale, from.y - (event.offsetY - from.top) / this.scale);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
    canvas.addEventListener("dblclick", (event) => this.zoom(2, event.offsetX, event.offsetY));
    canvas.addEventListener("keydown", (event) => this.key(event));
    const there = (event) => {
      if (!this.slide || !(event.buttons & 1)) return;
      const part = this.slide.width / overview.clientWidth;
      this.go(event.offsetX * part, event.offsetY * part);
    };
    overview.addEventListener("pointerdown", there);
    overview.addEventListener("pointermove", there);
  }

  key(event) {
    if (!this.slide || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = (event.shiftKey ? 0.5 : 0.125) / this.scale;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const keys = {
      ArrowLeft: () => this.go(this.x - w * move, this.y),
      ArrowRight: () => this.go(this.x + w * move, this.y),
      ArrowUp: () => this.go(this.x, this.y - h * move),
      ArrowDown: () => this.go(this.x, this.y + h * move),
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), "_": () => this.zoom(1 / 1.5),
      0: () => this.fit(), 1: () => this.go(this.x, this.y, 1 / (devicePixelRatio || 1)),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }
}
