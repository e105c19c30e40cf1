// The squares of a slide's tiles in their colours, over the slide; and which tile is where.

const SMALL = 3;         // device pixels of a tile below which a picture of all tiles is drawn instead
const MANY = 5000;       // tiles from which on that is worth it
const PICTURE = 2048;    // its longer side

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

export class HeatMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.map = null;
    this.shown = true;
  }

  /** Take what the server says of a slide's tiles, or nothing. */
  set(said, slide) {
    this.picture = null;
    this.map = said && {
      ...said,
      slide,
      xy: new Int32Array(bytes(said.xy_px)),
      scores: new Float32Array(bytes(said.scores)),
      ranks: new Int32Array(bytes(said.ranks)),
      colours: new Uint8Array(bytes(said.colours)),
    };
    if (!this.map) return;
    const rank = this.map.ranks;
    this.map.order = Array.from(rank.keys()).sort((a, b) => rank[a] - rank[b] || a - b);  // highest first
  }

  colour(tile) {
    const [r, g, b, a] = this.map.colours.subarray(4 * tile, 4 * tile + 4);
    return `rgba(${r},${g},${b},${a / 255})`;
  }

  /** Draw where the slide is: `at` is what DeepZoom tells. */
  draw(at) {
    const { canvas, map } = this;
    const { clientWidth: w, clientHeight: h } = canvas;
    canvas.width = Math.round(w * (devicePixelRatio || 1));
    canvas.height = Math.round(h * (devicePixelRatio || 1));
    canvas.dataset.tiles = 0;
    if (!at || !map || !this.shown) return;
    const pen = canvas.getContext("2d");
    if (map.width_px * at.s < SMALL && map.tiles > MANY) {
      this.picture ??= this.pictured();
      pen.drawImage(this.picture, -at.left, -at.top, map.slide.width * at.s, map.slide.height * at.s);
      canvas.dataset.tiles = map.tiles;
      return;
    }
    canvas.dataset.tiles = this.fill(pen, at, canvas.width, canvas.height);
  }

  /** Fill the squares that lie within a canvas; returns how many. Neighbours meet without a seam. */
  fill(pen, at, width, height) {
    const { xy, width_px: side, tiles } = this.map;
    let filled = 0;
    for (let i = 0; i < tiles; i++) {
      const left = Math.round(xy[2 * i] * at.s) - at.left, top = Math.round(xy[2 * i + 1] * at.s) - at.top;
      if (left >= width || top >= height) continue;
      const right = Math.max(left + 1, Math.round((xy[2 * i] + side) * at.s) - at.left);
      const bottom = Math.max(top + 1, Math.round((xy[2 * i + 1] + side) * at.s) - at.top);
      if (right <= 0 || bottom <= 0) continue;
      pen.clearRect(left, top, right - left, bottom - top);  // where tiles overlap, colours do not add up
      pen.fillStyle = this.colour(i);
      pen.fillRect(left, top, right - left, bottom - top);
      filled++;
    }
    return filled;
  }

  pictured() {
    const { width, height } = this.map.slide;
    const s = Math.min(1, PICTURE / Math.max(width, height));
    const picture = new OffscreenCanvas(Math.ceil(width * s), Math.ceil(height * s));
    this.fill(picture.getContext("2d"), { s, left: 0, top: 0 }, picture.width, picture.height);
    return picture;
  }

  /** The tile at a place of the slide; of several the one drawn last; -1 for none. */
  at(x, y) {
    if (!this.map) return -1;
    const { xy, width_px: side, tiles } = this.map;
    for (let i = tiles - 1; i >= 0; i--) {
      const dx = x - xy[2 * i], dy = y - xy[2 * i + 1];
      if (dx >= 0 && dy >= 0 && dx < side && dy < side) return i;
    }
    return -1;
  }

  square(tile) {
    return { x: this.map.xy[2 * tile], y: this.map.xy[2 * tile + 1], width: this.map.width_px };
  }

  /** The colours from the lowest rank to the highest. */
  drawColours(canvas) {
    const { order, tiles } = this.map;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let x = 0; x < canvas.width; x++) {
      const place = tiles - 1 - Math.round(x / Math.max(1, canvas.width - 1) * (tiles - 1));
      pen.fillStyle = this.colour(order[place]);
      pen.fillRect(x, 0, 1, canvas.height);
    }
  }
}
