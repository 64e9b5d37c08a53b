/** Places on maps, and the picture that is saved. */

/** Where a map of height x width lies inside an element that shows it as large as fits, in pixels of the element. */
function placed(box, height, width) {
  const scale = Math.min(box.width / width, box.height / height);
  return { scale, left: (box.width - width * scale) / 2, top: (box.height - height * scale) / 2 };
}

/** The unit under the pointer, or the nearest one. */
export function unitAt(element, event, height, width) {
  const box = element.getBoundingClientRect();
  const { scale, left, top } = placed(box, height, width);
  const within = (value, length) => Math.min(Math.max(Math.floor(value / scale), 0), length - 1);
  return { y: within(event.clientY - box.top - top, height), x: within(event.clientX - box.left - left, width) };
}

/** Lays an element over rows and columns of what its frame shows as large as fits. */
export function layOver(element, { y0, x0, y1, x1 }, height, width) {
  const side = Math.max(height, width);
  const [top, left] = [(side - height) / 2, (side - width) / 2];
  const share = (value) => `${(100 * value) / side}%`;
  Object.assign(element.style, { top: share(y0 + top), left: share(x0 + left), height: share(y1 - y0), width: share(x1 - x0) });
}

/** The image at an address, ready to be drawn. */
export async function loaded(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

const SIDE = 420;
const GAP = 20;

/** Pictures side by side with words under them, as a file. Each is drawn by `draw(context, side)`. */
export async function saved(pictures, lines, colours) {
  const canvas = document.createElement("canvas");
  canvas.width = pictures.length * (SIDE + GAP) + GAP;
  canvas.height = SIDE + 3 * GAP + 22 * (lines.length + 1);
  const context = canvas.getContext("2d");
  context.fillStyle = colours.page;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  for (const [place, { title, draw }] of pictures.entries()) {
    context.save();
    context.translate(GAP + place * (SIDE + GAP), GAP);
    context.fillStyle = colours.quiet;
    context.font = "15px system-ui, sans-serif";
    context.fillText(title, 0, SIDE + 22);
    context.beginPath();
    context.rect(0, 0, SIDE, SIDE);
    context.clip();
    draw(context, SIDE);
    context.restore();
  }
  context.fillStyle = colours.text;
  context.font = "15px system-ui, sans-serif";
  lines.forEach((line, place) => context.fillText(line, GAP, SIDE + 3 * GAP + 22 * (place + 1) - 10));
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** Draws an image as large as fits into a square. */
export function fit(context, image, side) {
  const scale = side / Math.max(image.naturalWidth, image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  context.drawImage(image, (side - width) / 2, (side - height) / 2, width, height);
}
