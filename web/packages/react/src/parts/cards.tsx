import type { Message } from "@partyline/client";
import type { ReactNode } from "react";
import { useLanguage } from "../language.ts";
import { bookingOf, fileOf, quoteOf } from "../metadata.ts";
import { Icon, type IconName } from "./icon.tsx";
import { MessageText } from "./text.tsx";

export interface CardProps {
  message: Pick<Message, "content" | "metadata" | "message_type">;
}

/** An offer with its price. */
export function QuoteCard({ message: { content, metadata } }: CardProps) {
  const { words, formats } = useLanguage();
  const { title, amount, currency, valid_until, items } = quoteOf(metadata);
  // What a quote says in words is often just what the card shows.
  const hasMore = content !== "" && !(title !== undefined && amount !== undefined && content.startsWith(title));
  return (
    <Card kind="quote" icon="quote" label={words.quote} title={title}>
      {items && (
        <ul className="pl-card-items">
          {items.map((item, index) => (
            <li key={index}>
              <span dir="auto">{item.label}</span>
              {item.amount !== undefined && <span>{formats.money(item.amount, currency)}</span>}
            </li>
          ))}
        </ul>
      )}
      {hasMore && <MessageText content={content} />}
      {amount !== undefined && (
        <p className="pl-card-sum">
          {items && <span>{words.total}</span>}
          <strong>{formats.money(amount, currency)}</strong>
        </p>
      )}
      {valid_until !== undefined && <p className="pl-card-note" dir="auto">{words.validUntil(formats.calendarDay(valid_until))}</p>}
    </Card>
  );
}

/** What became of a booking. */
export function BookingCard({ message: { content, metadata } }: CardProps) {
  const { words, formats } = useLanguage();
  const { title, status, starts_at, ends_at, reference } = bookingOf(metadata);
  const days = [starts_at, ends_at].flatMap((at) => (at === undefined ? [] : [formats.calendarDay(at)]));
  return (
    <Card kind="booking" icon="calendar" label={words.booking} title={title} status={status} statusText={status && words.bookingStatus(status)}>
      {days.length > 0 && <p className="pl-card-when" dir="auto">{[...new Set(days)].join(" – ")}</p>}
      {content !== "" && <MessageText content={content} />}
      {reference !== undefined && <p className="pl-card-note" dir="auto">{reference}</p>}
    </Card>
  );
}

/** A document to be opened. */
export function FileCard({ message: { content, metadata } }: CardProps) {
  const { words, formats } = useLanguage();
  const { url, name, size } = fileOf(metadata);
  const label = name ?? words.file;
  return (
    <Card kind="file" icon="file" label={words.file}>
      <p className="pl-card-file">
        {url === undefined ? (
          <span dir="auto">{label}</span>
        ) : (
          <a href={url} target="_blank" rel="noopener noreferrer nofollow ugc" dir="auto">
            {label}
            <span className="pl-hidden"> ({words.opensInNewTab})</span>
          </a>
        )}
        {size !== undefined && <span className="pl-card-note">{formats.size(size)}</span>}
      </p>
      {content !== "" && content !== name && <MessageText content={content} />}
    </Card>
  );
}

/** A message of a kind that these parts don't know: its kind, and its words. */
export function OtherCard({ message: { content, message_type } }: CardProps) {
  return (
    <Card kind="other" label={message_type.replaceAll("_", " ")}>
      <MessageText content={content} />
    </Card>
  );
}

interface FrameProps {
  kind: string;
  label: string;
  icon?: IconName;
  title?: string | undefined;
  status?: string | undefined;
  statusText?: string | undefined;
  children: ReactNode;
}

function Card({ kind, label, icon, title, status, statusText, children }: FrameProps) {
  return (
    <div className="pl-card" data-kind={kind}>
      <p className="pl-card-head">
        {icon && (
          <span className="pl-card-icon">
            <Icon name={icon} />
          </span>
        )}
        <span className="pl-card-label">{label}</span>
        {statusText && (
          <span className="pl-tag" data-status={status}>
            {statusText}
          </span>
        )}
      </p>
      {title !== undefined && (
        <p className="pl-card-title" dir="auto">
          {title}
        </p>
      )}
      {children}
    </div>
  );
}
