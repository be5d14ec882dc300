import { createContext, useContext } from "react";
import { Formats } from "./format.ts";
import { english, type Words } from "./words.ts";

export interface Language {
  words: Words;
  formats: Formats;
}

/** English words want English dates: the reader's own English, if they read any. */
export function defaultLocale(): string {
  const languages = typeof navigator === "undefined" ? [] : navigator.languages;
  return languages.find((language) => language.startsWith("en")) ?? "en-GB";
}

export const LanguageContext = createContext<Language>({ words: english, formats: new Formats(defaultLocale()) });

/** The words and the formats that `<ChatProvider>` was given. */
export function useLanguage(): Language {
  return useContext(LanguageContext);
}
