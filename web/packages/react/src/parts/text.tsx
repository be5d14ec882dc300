import { memo } from "react";
import { linkify } from "../links.ts";

/** A message's words, with links that are safe to follow; never markup. */
export const MessageText = memo(function MessageText({ content }: { content: string }) {
  return (
    <p className="pl-content" dir="auto">
      {linkify(content).map((piece, index) =>
        typeof piece === "string" ? (
          piece
        ) : (
          <a key={index} href={piece.href} target="_blank" rel="noopener noreferrer nofollow ugc" dir="ltr">
            {piece.text}
          </a>
        ),
      )}
    </p>
  );
});
