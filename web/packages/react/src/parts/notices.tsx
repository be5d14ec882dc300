import { useEffect } from "react";
import { useChatContext, useStore } from "../context.ts";
import { useLanguage } from "../language.ts";
import { Icon } from "./icon.tsx";
import { explain } from "./problem.tsx";

/** How long a notice stays. */
const LASTS_MS = 8_000;

/** What went wrong last, said once. */
export function NoticeArea() {
  const { words } = useLanguage();
  const { notices } = useChatContext();
  const notice = useStore(notices);
  useEffect(() => {
    if (!notice) return;
    const timer = setTimeout(notices.close, LASTS_MS);
    return () => clearTimeout(timer);
  }, [notice, notices]);
  return (
    <div className="pl-notices" role="alert">
      {notice && (
        <p className="pl-notice">
          {explain(notice.about, words)}
          <button className="pl-round pl-small" type="button" aria-label={words.close} onClick={notices.close}>
            <Icon name="close" />
          </button>
        </p>
      )}
    </div>
  );
}
