type Attribute = string | number | boolean | null | undefined | ((event: Event) => void);
type Child = Node | string | null | undefined | false;

/**
 * Makes an element. An attribute named `on…` with a function listens; true is an attribute without a value; false,
 * null and undefined are left out. Strings become text, never markup.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, Attribute> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets an attribute, or removes it; writes only what changes, as every write may be announced or laid out anew. */
export function setAttribute(element: Element, name: string, value: string | number | boolean | null | undefined): void {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== text(value)) element.setAttribute(name, text(value));
}

/** Sets an element's text, if it changes. */
export function setText(element: Element, content: string): void {
  if (element.textContent !== content) element.textContent = content;
}

function text(value: string | number | true): string {
  return value === true ? "" : String(value);
}

/** The children of `parent`, one for each item: those of before are kept by their key, moved and updated. */
export class Keyed<T, E extends HTMLElement> {
  private elements = new Map<string, E>();

  constructor(
    private readonly parent: Element,
    private readonly key: (item: T) => string,
    private readonly create: (item: T) => E,
    private readonly update: (element: E, item: T) => void,
  ) {}

  show(items: T[]): void {
    const elements = new Map<string, E>();
    let next = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      const element = this.elements.get(key) ?? this.create(item);
      elements.set(key, element);
      this.elements.delete(key);
      this.update(element, item);
      if (element === next) next = next.nextElementSibling;
      else this.parent.insertBefore(element, next);
    }
    this.elements.forEach((element) => element.remove());
    this.elements = elements;
  }
}

const PATHS = {
  back: "M15 5l-7 7 7 7",
  plus: "M12 5v14M5 12h14",
  send: "M4 12l16-8-6 16-3-7z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  down: "M12 5v14M6 13l6 6 6-6",
  exit: "M10 4H5v16h5M15 8l4 4-4 4M19 12H9",
  close: "M6 6l12 12M18 6L6 18",
};

/** A drawing without a meaning of its own: what it stands for is told beside it. */
export function icon(name: keyof typeof PATHS): SVGSVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A round picture of somebody's initial; its tone is always the same for the same person. */
export function avatar(userId: string, name: string): HTMLElement {
  const tone = Array.from(userId).reduce((sum, char) => (sum * 31 + (char.codePointAt(0) ?? 0)) >>> 0, 7) % 6;
  return h("span", { class: `avatar tone-${tone}`, "aria-hidden": "true" }, (Array.from(name)[0] ?? "?").toUpperCase());
}
