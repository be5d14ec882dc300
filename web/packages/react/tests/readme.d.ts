declare module "readme:*";
