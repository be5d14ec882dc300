const PATHS = {
  back: "M15 5l-7 7 7 7",
  plus: "M12 5v14M5 12h14",
  send: "M4 12l16-8-6 16-3-7z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  down: "M12 5v14M6 13l6 6 6-6",
  exit: "M10 4H5v16h5M15 8l4 4-4 4M19 12H9",
  close: "M6 6l12 12M18 6L6 18",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M20 20l-4-4",
  quote: "M6 3h12v18l-3-2-3 2-3-2-3 2zM9 8h6M9 12h6",
  calendar: "M5 6h14v14H5zM5 10h14M9 3v4M15 3v4",
  file: "M7 3h7l4 4v14H7zM14 3v4h4",
  sent: "M5 13l4 4L19 7",
  read: "M2 13l4 4L16 7M11 16l1 1L22 7",
};

export type IconName = keyof typeof PATHS;

/** Drawings that lead somewhere lead the other way where one reads from right to left. */
const DIRECTED = new Set<IconName>(["back", "send", "exit"]);

/** A drawing without a meaning of its own: what it stands for is told beside it. */
export function Icon({ name }: { name: IconName }) {
  return (
    <svg className={DIRECTED.has(name) ? "pl-icon pl-directed" : "pl-icon"} viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
