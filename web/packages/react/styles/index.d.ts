/** Nothing is exported: the import is for its styles. */
export {};
