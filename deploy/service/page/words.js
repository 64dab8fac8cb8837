// What the page says, in the language of the browser.
const EN = {
  title: "Similar pictures", skip: "Skip to the results", search: "Search", addPictures: "Add pictures",
  drop: "Drop a picture here, paste one, or", pick: "Choose a picture", wordsLabel: "Describe it in words",
  wordsHint: "or describe it in words", places: "Show", label: "Label", any: "any", order: "Order", byBits: "by bits",
  finer: "finer", relaxed: "finest", collapse: "Near-duplicates together", back: "Back", more: "Show more",
  addHint: "They are kept by the service and found from then on.", pictures: "Pictures",
  folder: "Folder (part of their names)", none: "none", close: "Close", add: "Add",
  tokenTitle: "This service wants a token", token: "Token", go: "Continue",
  items: (n) => `${n.toLocaleString()} ${n === 1 ? "picture" : "pictures"}`, bits: (n) => `${n} bits`,
  engine: (name, exact) => (name === "exact" ? "exact search" : `${name}, ${exact ? "exact" : "approximate"}`), all: "All pictures", nearPicture: (name) => `Like ${name}`,
  nearWords: (text) => `“${text}”`, pasted: "the pasted picture", searching: "Searching…",
  slow: "Still searching: the service has much to do…",
  found: (n, best) => `${n} found, the nearest ${best} ${best === 1 ? "bit" : "bits"} apart`,
  nothing: "Nothing was found. Try another label, or leave near-duplicates apart.",
  empty: "The index is empty. Add pictures to search for.",
  apart: (n) => (n === 1 ? "bit" : "bits"), same: "same code", noPicture: "no picture at hand",
  differ: (n, all, which) => (n ? `${n} of ${all} bits differ: ${which}` : `all ${all} bits are the same`),
  searchOn: "search for what is near it", gone: "The service does not answer. The page tries again by itself.",
  again: "The service is back.", badDrop: "That is no picture.", tooLarge: "The picture is too large.",
  added: "added", adding: "being added…", together: (n) => `${n} near-duplicates`,
};
const ZH = {
  title: "相似图片", skip: "跳到结果", search: "搜索", addPictures: "添加图片", drop: "把图片拖到这里、粘贴，或",
  pick: "选择图片", wordsLabel: "用文字描述", wordsHint: "或用文字描述", places: "显示", label: "标签", any: "不限",
  order: "排序", byBits: "按位", finer: "更细", relaxed: "最细", collapse: "合并近似重复", back: "返回", more: "显示更多",
  addHint: "图片由服务保存，此后即可被搜到。", pictures: "图片", folder: "文件夹（名称的一部分）", none: "无", close: "关闭",
  add: "添加", tokenTitle: "此服务需要令牌", token: "令牌", go: "继续",
  items: (n) => `${n.toLocaleString()} 张图片`, bits: (n) => `${n} 位`, engine: (name, exact) => (name === "exact" ? "精确检索" : `${name}，${exact ? "精确" : "近似"}`), all: "全部图片",
  nearPicture: (name) => `与 ${name} 相似`, nearWords: (text) => `“${text}”`, pasted: "粘贴的图片", searching: "正在搜索…",
  slow: "仍在搜索：服务较忙…", found: (n, best) => `找到 ${n} 张，最近的相差 ${best} 位`,
  nothing: "没有找到。请换一个标签，或不合并近似重复。", empty: "索引是空的。请添加图片。", apart: () => "位",
  same: "编码相同", noPicture: "没有图片文件", differ: (n, all, which) => (n ? `${all} 位中有 ${n} 位不同：${which}` : `${all} 位全部相同`),
  searchOn: "搜索与它相近的图片", gone: "服务没有响应，页面会自动重试。", again: "服务已恢复。", badDrop: "这不是图片。",
  tooLarge: "图片太大。", added: "已添加", adding: "正在添加…", together: (n) => `${n} 张近似重复`,
};

const chinese = navigator.language.toLowerCase().startsWith("zh");
export const words = chinese ? ZH : EN;

/** Put the words into the elements that ask for them. */
export function translate() {
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  document.title = words.title;
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = words[element.dataset.words];
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = words[element.dataset.placeholder];
  }
}
