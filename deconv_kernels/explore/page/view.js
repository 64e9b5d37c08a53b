/** The view: what is looked at, as the part of the address behind # says it. */

const NUMBERS = ["map", "y", "x"];

/** A view out of an address; what it does not say is left out. */
export function read(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const view = {};
  for (const name of ["image", "layer", "rule", "overlap"]) if (said.get(name)) view[name] = said.get(name);
  for (const name of NUMBERS) if (/^\d+$/.test(said.get(name) ?? "")) view[name] = Number(said.get(name));
  const square = (said.get("square") ?? "").split(",").map(Number);
  if (square.length === 3 && square.every(Number.isInteger)) view.square = { y: square[0], x: square[1], side: square[2] };
  return view;
}

/** The address of a view. */
export function written(view) {
  const said = new URLSearchParams();
  for (const name of ["image", "layer", ...NUMBERS, "rule", "overlap"]) said.set(name, view[name]);
  if (view.square) said.set("square", [view.square.y, view.square.x, view.square.side].join(","));
  return `#${said}`;
}
