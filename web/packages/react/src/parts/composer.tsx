import { type ChatMessage, contentLength } from "@partyline/client";
import { type FormEvent, type KeyboardEvent, type ReactNode, useEffect, useLayoutEffect, useRef, useState } from "react";
import { useLanguage } from "../language.ts";
import { Icon } from "./icon.tsx";

/** The counter shows from this share of the limit on. */
const NEAR_LIMIT = 0.8;

export interface ComposerProps {
  send(content: string): void;
  edit(message: ChatMessage, content: string): void;
  setTyping(isTyping: boolean): void;
  /** The message that is written anew; undefined for a new one. */
  edited: ChatMessage | undefined;
  /** Begins to write my last message anew, if there is one, or ends that. */
  onEdit(which: "last" | undefined): void;
  /** Unicode code points that a message may have; 0 for any number. */
  maxChars: number;
  isDisabled?: boolean;
  /** What was begun to be written; `onDraft` tells what is. */
  draft?: string;
  onDraft?(content: string): void;
  /** Takes the focus when it appears: not where a keyboard on the screen would cover what is to be read. */
  takesFocus?: boolean;
  /** More buttons, before the field. */
  children?: ReactNode;
}

/** Where a message is written, or written anew. */
export function Composer(props: ComposerProps) {
  const { send, edit, setTyping, edited, onEdit, maxChars, isDisabled = false, draft = "", onDraft, takesFocus = true, children } = props;
  const { words } = useLanguage();
  const [content, setContent] = useState(draft);
  const [before, setBefore] = useState<{ of: ChatMessage; content: string }>();
  const field = useRef<HTMLTextAreaElement>(null);

  // What is written anew takes the place of what was being written, which comes back afterwards.
  if (edited !== before?.of) {
    setContent(edited?.content ?? before?.content ?? "");
    setBefore(edited && { of: edited, content: before?.content ?? content });
  }

  useLayoutEffect(() => {
    const element = field.current;
    if (!element) return;
    // As high as its text, up to what the style allows.
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight + element.offsetHeight - element.clientHeight}px`;
  }, [content]);
  useEffect(() => {
    if (takesFocus && matchMedia("(hover: hover)").matches) field.current?.focus({ preventScroll: true });
  }, [takesFocus]);
  useEffect(() => {
    if (edited) field.current?.focus({ preventScroll: true });
  }, [edited]);

  const length = contentLength(content);
  const isTooLong = maxChars > 0 && length > maxChars;
  const isSendable = length > 0 && !isTooLong && !isDisabled;

  const write = (text: string) => {
    setContent(text);
    if (edited) return;
    onDraft?.(text);
    setTyping(text.trim() !== "");
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (!isSendable) return;
    const text = content.trim();
    if (edited) {
      if (text !== edited.content) edit(edited, text);
      onEdit(undefined);
    } else {
      send(text);
      setContent("");
      onDraft?.("");
    }
    field.current?.focus({ preventScroll: true });
  };
  const press = (event: KeyboardEvent) => {
    // Enter that ends a word of an input method is not meant to send.
    if (event.nativeEvent.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      submit(event);
    } else if (event.key === "Escape" && edited) {
      onEdit(undefined);
    } else if (event.key === "ArrowUp" && content === "" && !edited) {
      event.preventDefault();
      onEdit("last");
    }
  };

  return (
    <form className="pl-composer" onSubmit={submit}>
      {edited && (
        <div className="pl-editing">
          <span>{words.editing}</span>
          <button className="pl-quiet" type="button" onClick={() => onEdit(undefined)}>
            {words.cancel}
          </button>
        </div>
      )}
      <div className="pl-composer-row">
        {children}
        <textarea
          ref={field}
          rows={1}
          value={content}
          placeholder={words.message}
          aria-label={words.message}
          autoComplete="off"
          enterKeyHint="send"
          dir="auto"
          disabled={isDisabled}
          onChange={(event) => write(event.target.value)}
          onKeyDown={press}
          onBlur={() => setTyping(false)}
        />
        {maxChars > 0 && length >= maxChars * NEAR_LIMIT && (
          <span className="pl-counter" data-over={isTooLong || undefined} role="status" dir="ltr">
            {length} / {maxChars}
          </span>
        )}
        <button className="pl-round pl-primary" type="submit" aria-label={words.send} disabled={!isSendable}>
          <Icon name="send" />
        </button>
      </div>
    </form>
  );
}
