import { defaultClientConditions, defineConfig, type Plugin } from "vite";

/**
 * What the built page may do: its own files and its own server, nothing inline. `'self'` covers WebSockets of the
 * same host. The gateway's own header can only narrow this.
 */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** Only in the built page: the development server works with inline styles. */
const contentSecurityPolicy: Plugin = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: POLICY }, injectTo: "head-prepend" },
  ],
};

const gateway = process.env.PARTYLINE_URL ?? "http://127.0.0.1:8080/";

export default defineConfig({
  // The page may be served below any path.
  base: "./",
  plugins: [contentSecurityPolicy],
  // Packages of the workspace are taken from their sources, without a build.
  resolve: { conditions: ["@partyline/source", ...defaultClientConditions] },
  // `light-dark()` is to stay what it is: the parts follow the colour scheme of their place, not the page's alone.
  build: { target: "es2022", cssTarget: ["chrome123", "firefox120", "safari17.5"], assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: false },
  server: {
    proxy: {
      "/ws": { target: gateway, ws: true, changeOrigin: true, rewriteWsOrigin: true },
      "/chat/api": { target: gateway },
      "/demo.json": { target: gateway },
    },
  },
});
