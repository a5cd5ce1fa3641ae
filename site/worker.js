// Browsers run no Worker in a page that was opened from a disk. There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<script src="${address}" defer></script>`;
      this.frame.onload = () => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      };
      const start = () => {
        document.body.append(this.frame);
        // What the script answers goes to the page, not to the frame itself.
        this.frame.contentWindow.postMessage = (data) => this.answer(data);
      };
      document.body ? start() : addEventListener("DOMContentLoaded", start);
    }

    answer(data) {
      const event = new MessageEvent("message", {data});
      this.dispatchEvent(event);
      this.onmessage?.(event);
    }

    postMessage(data) {
      if (!this.ready) {
        this.waiting.push(data);
        return;
      }
      const inside = this.frame.contentWindow;
      inside.postMessage = (answer) => this.answer(answer);
      inside.dispatchEvent(new inside.MessageEvent("message", {data}));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
