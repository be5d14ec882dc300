import type { SendOptions } from "@partyline/client";
import { type FormEvent, useId } from "react";
import { useLanguage } from "../language.ts";
import type { Quote } from "../metadata.ts";

export interface QuoteFormProps {
  /** ISO 4217: the currency of the sum. */
  currency: string;
  send(content: string, options: SendOptions): void;
  onClose(): void;
}

/** Makes a message of type `quote`: see `Quote`. */
export function QuoteForm({ currency, send, onClose }: QuoteFormProps) {
  const { words, formats } = useLanguage();
  const id = useId();
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const text = (name: string) => String(fields.get(name) ?? "").trim();
    const amount = Number(text("amount"));
    const validUntil = text("valid_until");
    const quote: Quote = { title: text("title"), amount, currency, ...(validUntil && { valid_until: validUntil }) };
    // For whoever can't show a quote: a list of conversations, a notification.
    const content = `${quote.title}: ${formats.money(amount, currency)}`;
    send(content, { message_type: "quote", metadata: { ...quote } });
    onClose();
  };
  return (
    <form className="pl-form" aria-labelledby={id} onSubmit={submit} onKeyDown={(event) => event.key === "Escape" && onClose()}>
      <h3 className="pl-form-wide pl-name" id={id}>
        {words.makeQuote}
      </h3>
      <label className="pl-form-wide">
        {words.quoteTitle}
        <input name="title" required maxLength={200} dir="auto" autoFocus autoComplete="off" />
      </label>
      <label>
        {words.amountIn(currency)}
        <input name="amount" type="number" inputMode="decimal" min="0" step="0.01" required />
      </label>
      <label>
        {words.validUntilLabel}
        <input name="valid_until" type="date" />
      </label>
      <div className="pl-form-buttons">
        <button className="pl-quiet" type="button" onClick={onClose}>
          {words.cancel}
        </button>
        <button className="pl-primary" type="submit">
          {words.sendQuote}
        </button>
      </div>
    </form>
  );
}
