import { memo, useId, useState } from "react";
import { useLanguage } from "../language.ts";
import type { Row } from "../rows.ts";
import { Bubble } from "./bubble.tsx";
import { Delivery } from "./delivery.tsx";
import { Icon } from "./icon.tsx";

/** What can be done with a message of mine. */
export interface MessageActions {
  edit(row: Row): void;
  delete(row: Row): void;
  retry(clientId: string): void;
  discard(clientId: string): void;
  /** Opens the choices of one message, or closes them. */
  toggle(key: string | undefined): void;
}

export interface MessageProps {
  row: Row;
  actions: MessageActions;
  isConnected: boolean;
  /** How many take part besides me. */
  company: number;
  isDirect: boolean;
  /** Its choices are shown. */
  isOpen: boolean;
  /** The arrow keys are at this message: its buttons can be reached by the Tab key. */
  isCurrent: boolean;
}

/** A message: who said it, what, when, and what can be done about it. */
export const Message = memo(function Message({ row, actions, isConnected, company, isDirect, isOpen, isCurrent }: MessageProps) {
  const { words, formats } = useLanguage();
  const id = useId();
  const { message, isFirst, isLast } = row;
  const { isMine, state } = message;
  const isDeleted = Boolean(message.deleted_at);
  const isSystem = message.message_type === "system";
  const isEdited = Boolean(message.edited_at) && !isDeleted;
  const isChangeable = isMine && message.seq > 0 && !isDeleted && !isSystem;
  const sender = message.sender_username || message.sender_id;
  // In a group the last one tells for all, but for what is out of the ordinary.
  const hasMeta = isLast || isEdited || (isMine && (state === "sending" || state === "failed"));
  const toggle = () => actions.toggle(isOpen ? undefined : row.key);
  return (
    <article
      className="pl-message"
      data-mine={isMine || undefined}
      data-first={isFirst || undefined}
      data-last={isLast || undefined}
      data-system={isSystem || undefined}
      data-deleted={isDeleted || undefined}
      data-changeable={isChangeable || undefined}
      data-delivery={isMine ? state : undefined}
      data-seq={message.seq || undefined}
      aria-labelledby={`${id}who ${id}what ${id}when`}
      tabIndex={-1}
      onKeyDown={(event) => {
        if (event.key === "Escape" && isOpen) actions.toggle(undefined);
        else if (event.key === "Enter" && event.target === event.currentTarget && isChangeable) toggle();
        else return;
        event.stopPropagation();
      }}
    >
      {!isSystem && (
        <span id={`${id}who`} className={isMine || isDirect || !isFirst ? "pl-hidden" : "pl-author"} dir="auto">
          {isMine ? words.you : sender}
        </span>
      )}
      <div
        className="pl-line"
        // A finger has no pointer that hovers: it taps the message itself.
        onClick={(event) => {
          const isTap = isChangeable && matchMedia("(hover: none)").matches && !getSelection()?.toString();
          if (isTap && !(event.target as Element).closest("a, button")) toggle();
        }}
      >
        <Bubble id={`${id}what`} message={message} answers={row.answers} />
        {isChangeable && (
          <button className="pl-toggle pl-round pl-small" type="button" aria-label={words.editOrDelete} aria-expanded={isOpen} tabIndex={isCurrent ? 0 : -1} onClick={toggle}>
            <Icon name="more" />
          </button>
        )}
      </div>
      {isOpen && isChangeable && <Choices row={row} actions={actions} />}
      <div className="pl-meta" hidden={!hasMeta}>
        <time id={`${id}when`} dir="auto" dateTime={message.created_at} title={formats.fullTime(message.created_at)}>
          {formats.time(message.created_at)}
        </time>
        {isEdited && <span className="pl-edited">{words.edited}</span>}
        {isMine && state !== "failed" && <Delivery message={message} isConnected={isConnected} readers={row.readers} company={company} />}
      </div>
      {state === "failed" && (
        <div className="pl-failure">
          <span>{words.notSent(message.problem?.message ?? words.unknownReason)}</span>
          <button className="pl-quiet" type="button" onClick={() => actions.retry(message.client_id)}>
            {words.tryAgain}
          </button>
          <button className="pl-quiet" type="button" onClick={() => actions.discard(message.client_id)}>
            {words.discard}
          </button>
        </div>
      )}
    </article>
  );
});

function Choices({ row, actions }: { row: Row; actions: MessageActions }) {
  const { words } = useLanguage();
  const [isAsking, setIsAsking] = useState(false);
  const close = () => actions.toggle(undefined);
  const remove = () => {
    // Asks first: it is gone for everybody.
    if (!isAsking) return setIsAsking(true);
    close();
    actions.delete(row);
  };
  return (
    <div className="pl-choices">
      {row.message.message_type === "text" && (
        <button
          className="pl-quiet"
          type="button"
          onClick={() => {
            close();
            actions.edit(row);
          }}
        >
          {words.edit}
        </button>
      )}
      <button className="pl-quiet pl-danger" type="button" onClick={remove}>
        {isAsking ? words.deleteForEverybody : words.delete}
      </button>
    </div>
  );
}
