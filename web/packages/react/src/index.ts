export { Formats } from "./format.ts";
export { linkify, type Piece, safeHref } from "./links.ts";
export { type Booking, bookingOf, type FileLink, fileOf, type Quote, quoteOf } from "./metadata.ts";
export { nameOf, others, pictureOf, titleOf } from "./names.ts";
export { english, type Words } from "./words.ts";
